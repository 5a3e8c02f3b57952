"""Each reader of a public data set, on a few lines in its real format with its quirks."""

import gzip
import json
from datetime import datetime, timezone

import polars as pl
import pytest

from ebbtide.data.dataset import DataReference, read_dataset
from ebbtide.data.errors import DataError
from ebbtide.data.prepare.formats import SOURCES
from ebbtide.data.prepare.write import prepare


def utc(*parts):
    return datetime(*parts, tzinfo=timezone.utc)


class Prepared:
    """What a reader wrote, and what training reads from it."""

    def __init__(self, name, folder):
        out = folder.parent / "out"
        self.summary = prepare(SOURCES[name], folder, out)
        self.events = pl.read_parquet(out / "events.parquet")
        self.catalog = pl.read_parquet(out / "catalog.parquet")
        prepare(SOURCES[name], folder, folder.parent / "again")
        assert self.events.equals(pl.read_parquet(folder.parent / "again" / "events.parquet"))
        assert self.catalog.equals(pl.read_parquet(folder.parent / "again" / "catalog.parquet"))
        data = read_dataset(
            DataReference(
                events=str(out / "events.parquet"),
                catalog=str(out / "catalog.parquet"),
                user_column="user",
                item_column="item",
                time_column="time",
                weight_column="weight" if self.summary.has_weight else None,
                catalog_item_column="item",
                text_template="{text}",
                title_template="{title}",
                max_bad_rows=0,
                holdout="none",
            )
        )
        assert data.bad_events.count == 0
        assert data.bad_items.count == 0
        assert data.log.events == self.summary.events == self.events.height
        assert len(data.log.users) == self.summary.users
        assert len(data.catalog) == self.summary.items == self.catalog.height

    @property
    def rows(self):
        return self.events.select("user", "item", "time").sort("user", "time", "item").rows()

    @property
    def texts(self):
        return dict(self.catalog.select("item", "text").rows())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def write(file, *lines, encoding="utf-8", end="\n"):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((end.join(lines) + end).encode(encoding))


def write_gzip(file, *lines):
    file.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))


def test_mind_reads_clicks_of_all_labelled_splits(folder):
    write(
        folder / "MINDsmall_train" / "behaviors.tsv",
        "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0",
        "2\tU91836\t11/12/2019 6:11:30 PM\t\tN20678-0 N39317-1 N55689-1",
        "3\tU13740\t11/11/2019 9:15:00 AM\tN55189 N42782\tN35729-0 N20678-0",
    )
    write(folder / "MINDsmall_dev" / "behaviors.tsv", "1\tU80234\t11/15/2019 12:37:50 AM\tN55189\tN28682-0 N39317-1")
    write(folder / "MINDsmall_test" / "behaviors.tsv", "1\tU5\t11/20/2019 1:00:00 PM\tN1\tN28682 N39317")
    write(
        folder / "MINDsmall_train" / "news.tsv",
        'N55689\tsports\tfootball_nfl\tCharles Rogers, "star", dies\tHe was 38.\thttps://a\t[]\t[{"Label": "NFL"}]',
        "N35729\tnews\tnewsus\tPorsche launches?\t\thttps://b\t[]\t[]",
    )
    write(folder / "MINDsmall_dev" / "news.tsv", "N28682\tnews\tus\tNot read\t\thttps://c\t[]\t[]")
    got = Prepared("mind", folder)
    assert got.rows == [
        ("U13740", "N55689", utc(2019, 11, 11, 9, 5, 58)),
        ("U80234", "N39317", utc(2019, 11, 15, 0, 37, 50)),
        ("U91836", "N39317", utc(2019, 11, 12, 18, 11, 30)),
        ("U91836", "N55689", utc(2019, 11, 12, 18, 11, 30)),
    ]
    assert got.texts == {
        "N55689": 'Charles Rogers, "star", dies. He was 38. sports. football_nfl',
        "N35729": "Porsche launches? news. newsus",
        "N28682": "Not read. news. us",
        "N39317": "N39317",
    }
    assert got.summary.left_out == {"impressions without a click": 1, "impressions without labels (test split)": 1}
    assert got.summary.notes == (
        "4 clicks of the history column have no time and are not used",
        "1 items have no description: their text is their id",
    )


def test_mind_is_refused_when_two_sizes_lie_in_one_folder(folder):
    for size in ("small", "large"):
        write(folder / f"MIND{size}_train" / "behaviors.tsv", "1\tU1\t11/11/2019 9:05:58 AM\t\tN1-1")
        write(folder / f"MIND{size}_train" / "news.tsv", "N1\tnews\tus\tTitle\t\thttps://c\t[]\t[]")
    with pytest.raises(DataError, match="got the sizes small, large of MIND; expected one: name its folder"):
        Prepared("mind", folder)


def test_eb_nerd_counts_a_read_once_when_history_and_behaviors_hold_it(folder):
    early, noon = datetime(2023, 5, 1, 8), datetime(2023, 5, 20, 12)
    behaviors = {"user_id": [7, 8], "impression_time": [noon, noon], "article_ids_clicked": [[101], []]}
    history = {
        "user_id": [7],
        "article_id_fixed": [[100, 101]],
        "impression_time_fixed": [[early, datetime(2023, 5, 20, 12, 1)]],
    }
    articles = {
        "article_id": [100, 101],
        "title": ["Hanks beskyldt for mishandling", "Bostrups aske spredt"],
        "subtitle": ["Tom Hanks har angiveligt mishandlet sin ekskone.", ""],
        "category_str": ["underholdning", "nyheder"],
        "topics": [["Kriminalitet", "Kendt"], []],
        "body": ["...", "..."],
    }
    types = {
        "user_id": pl.UInt32,
        "article_id": pl.Int32,
        "article_ids_clicked": pl.List(pl.Int32),
        "article_id_fixed": pl.List(pl.Int32),
    }
    for split in ("train", "validation"):
        (folder / split).mkdir()
        pl.DataFrame(behaviors, schema_overrides=types, strict=False).write_parquet(
            folder / split / "behaviors.parquet"
        )
        pl.DataFrame(history, schema_overrides=types, strict=False).write_parquet(folder / split / "history.parquet")
    (folder / "test").mkdir()
    pl.DataFrame({"user_id": [7], "impression_time": [noon]}).write_parquet(folder / "test" / "behaviors.parquet")
    pl.DataFrame(articles, schema_overrides=types, strict=False).write_parquet(folder / "articles.parquet")
    got = Prepared("eb-nerd", folder)
    assert got.rows == [("7", "100", utc(2023, 5, 1, 8)), ("7", "101", utc(2023, 5, 20, 12))]
    assert got.texts["100"] == (
        "Hanks beskyldt for mishandling. Tom Hanks har angiveligt mishandlet sin ekskone. underholdning. "
        "Kriminalitet, Kendt"
    )
    assert got.summary.left_out == {"second records of one read": 4, "impressions without a click": 2}
    assert any("Danish" in note for note in got.summary.notes)
    assert any("test/behaviors.parquet has no clicks" in note for note in got.summary.notes)


YAMBDA = {"uid": pl.UInt32, "item_id": pl.UInt32, "timestamp": pl.UInt32, "artist_id": pl.UInt32, "album_id": pl.UInt32}


def test_yambda_reads_likes_and_long_listens_of_the_flat_form(folder):
    (folder / "flat" / "50m").mkdir(parents=True)
    pl.DataFrame(
        {
            "uid": [10] * 6,
            "timestamp": [5, 10, 10, 86_400, 86_405, 86_410],
            "item_id": [1, 2, 3, 1, 1, 2],
            "is_organic": [1, 0, 1, 1, 1, 1],
            "played_ratio_pct": [100, 49, 50, None, None, None],
            "event_type": ["listen", "listen", "listen", "like", "unlike", "dislike"],
        },
        schema_overrides=YAMBDA,
    ).write_parquet(folder / "flat" / "50m" / "multi_event.parquet")
    pl.DataFrame({"artist_id": [9, 4, 5], "item_id": [1, 1, 7]}, schema_overrides=YAMBDA).write_parquet(
        folder / "artist_item_mapping.parquet"
    )
    pl.DataFrame({"album_id": [2], "item_id": [1]}, schema_overrides=YAMBDA).write_parquet(
        folder / "album_item_mapping.parquet"
    )
    got = Prepared("yambda", folder)
    assert got.rows == [
        ("10", "1", utc(2024, 1, 1, 0, 0, 5)),
        ("10", "3", utc(2024, 1, 1, 0, 0, 10)),
        ("10", "1", utc(2024, 1, 2)),
    ]
    assert got.texts == {"1": "artist 4, 9. album 2", "3": "track 3"}
    assert got.catalog["artist"].to_list() == ["4|9", None]
    assert got.summary.left_out == {
        "dislikes": 1,
        "likes and dislikes taken back": 1,
        "listens to less than half of a track": 1,
    }
    assert Prepared("yambda", folder / "flat" / "50m").texts == got.texts


def test_yambda_reads_files_of_one_type_when_multi_event_is_missing(folder):
    pl.DataFrame(
        {"uid": [1, 1], "timestamp": [0, 5], "item_id": [4, 5], "played_ratio_pct": [80, 2]}, schema_overrides=YAMBDA
    ).write_parquet(folder / "listens.parquet")
    pl.DataFrame({"uid": [2], "timestamp": [15], "item_id": [4]}, schema_overrides=YAMBDA).write_parquet(
        folder / "likes.parquet"
    )
    got = Prepared("yambda", folder)
    assert got.rows == [("1", "4", utc(2024, 1, 1)), ("2", "4", utc(2024, 1, 1, 0, 0, 15))]
    assert got.texts == {"4": "track 4"}
    assert any("artist_item_mapping.parquet is missing" in note for note in got.summary.notes)


def review(user, item, rating, timestamp):
    return json.dumps(
        {
            "rating": rating,
            "title": "Nice",
            "text": 'Line one\nand "two"',
            "images": [{"small_image_url": "https://x"}],
            "asin": f"{item}V",
            "parent_asin": item,
            "user_id": user,
            "timestamp": timestamp,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
    )


PRODUCTS = [
    {
        "main_category": "All Beauty",
        "title": "Howard  Wax-It &amp; Polish",
        "features": ["a"],
        "price": None,
        "store": "Howard",
        "categories": ["Beauty", "Hair &amp; Care"],
        "details": {"Package": "7 x 5"},
        "parent_asin": "B01",
    },
    {"title": "Yes to Tomatoes", "price": "from 12.99", "store": None, "categories": [], "parent_asin": "B02"},
]


def test_amazon_2023_counts_the_first_review_of_an_item(folder):
    write_gzip(
        folder / "All_Beauty.jsonl.gz",
        review("AGK", "B01", 5.0, 1588687728923),
        review("AGK", "B01", 1.0, 1598687728923),
        review("AFS", "B03", 4.0, 1588615855070),
    )
    write_gzip(folder / "meta_All_Beauty.jsonl.gz", *map(json.dumps, PRODUCTS))
    got = Prepared("amazon-2023", folder)
    assert got.events.select("user", "item", "weight").sort("user").rows() == [("AFS", "B03", 4), ("AGK", "B01", 5)]
    assert got.rows[1][2] == utc(2020, 5, 5, 14, 8, 48, 923000)
    assert got.texts == {
        "B01": "Howard Wax-It & Polish. Howard. Beauty, Hair & Care",
        "B02": "Yes to Tomatoes",
        "B03": "B03",
    }
    assert got.catalog["categories"][0].to_list() == ["Beauty", "Hair & Care"]
    assert got.summary.left_out == {"later reviews of the same item by the same user": 1}


def test_amazon_2023_prefers_the_benchmark_table_to_the_reviews_it_was_made_from(folder):
    write(folder / "All_Beauty.jsonl", review("A", "B01", 5.0, 1588687728923), review("B", "B01", 5.0, 1588687728923))
    write(folder / "All_Beauty.csv", "user_id,parent_asin,rating,timestamp", "A,B01,5.0,1588687728923")
    write(folder / "meta_All_Beauty.jsonl", *map(json.dumps, PRODUCTS))
    assert [row[:2] for row in Prepared("amazon-2023", folder).rows] == [("A", "B01")]


def test_lastfm_1k_knows_tracks_by_their_names_and_keeps_quotes(folder):
    write(
        folder / "lastfm-dataset-1K" / "userid-timestamp-artid-artname-traid-traname.tsv",
        'user_000001\t2009-05-04T23:08:57Z\tf1b1\tDeep Dish\t\tFuck Me "Famous',
        "user_000001\t2009-05-04T13:54:10Z\ta7f7\t坂本龍一\t\tComposition 0919",
        "user_000002\t2009-05-01T10:00:00Z\t440c\tTowa Tei\tc605\tMind Wall",
        "user_000002\t2009-05-01T09:00:00Z\t\tTowa Tei\t\tMind Wall",
        "user_000002\t2009-05-01T08:00:00Z\t\tTowa Tei\t\t",
        "user_000762\t2013-09-29T18:32:04Z\td835\t30 Seconds To Mars\tb5b4\tA Beautiful Lie",
    )
    got = Prepared("lastfm-1k", folder)
    assert got.rows == [
        ("user_000001", "坂本龍一 / Composition 0919", utc(2009, 5, 4, 13, 54, 10)),
        ("user_000001", 'Deep Dish / Fuck Me "Famous', utc(2009, 5, 4, 23, 8, 57)),
        ("user_000002", "c605", utc(2009, 5, 1, 9)),
        ("user_000002", "c605", utc(2009, 5, 1, 10)),
    ]
    assert got.texts["c605"] == "Mind Wall, a song by Towa Tei"
    assert got.summary.left_out == {
        "listens later than the data set": 1,
        "listens without the name of artist or track": 1,
    }


def test_retailrocket_describes_items_by_category_and_hashed_words(folder):
    write(
        folder / "events.csv",
        "timestamp,visitorid,event,itemid,transactionid",
        "1433221332117,257597,view,355908,",
        "1433221332117,257597,view,355908,",
        "1433221999827,257597,addtocart,355908,",
        "1433222276276,257597,transaction,355908,4000",
        "1433224214164,992329,view,248676,",
    )
    write(
        folder / "item_properties_part1.csv",
        "timestamp,itemid,property,value",
        "1433646000000,355908,categoryid,999",
        "1435460400000,355908,categoryid,213",
        "1435460400000,355908,888,1116713 960601 n277.200",
        "1435460400000,355908,790,n35880.000",
    )
    write(
        folder / "item_properties_part2.csv",
        "timestamp,itemid,property,value",
        "1435460400000,355908,available,1",
        "1435460400000,777,888,5",
    )
    write(folder / "category_tree.csv", "categoryid,parentid", "213,1016", "1016,140", "140,")
    got = Prepared("retailrocket", folder)
    assert got.events.select("item", "weight").sort("item", "weight").rows() == [
        ("248676", 1),
        ("355908", 1),
        ("355908", 2),
        ("355908", 3),
    ]
    assert got.rows[0] == ("257597", "355908", utc(2015, 6, 2, 5, 2, 12, 117000))
    assert got.texts == {"355908": "category 140 > 1016 > 213. 1116713 960601", "248676": "248676"}
    assert got.summary.left_out == {"exact copies of an earlier event": 1}


def test_retailrocket_describes_items_by_id_when_properties_are_missing(folder):
    write(folder / "events.csv", "timestamp,visitorid,event,itemid,transactionid", "1433221332117,2,view,3,")
    got = Prepared("retailrocket", folder)
    assert got.texts == {"3": "3"}
    assert any("item_properties_part1.csv" in note for note in got.summary.notes)


def test_movielens_reads_dat_files_in_latin_1(folder):
    write(folder / "ml-1m" / "ratings.dat", "1::1193::5::978300760", "1::661::3::978302109", end="\r\n")
    write(
        folder / "ml-1m" / "movies.dat",
        "661::Misérables: The Film, Les (1995)::Drama|Musical",
        "1193::Cuckoo::Nest (1975)::Drama",
        encoding="latin-1",
    )
    got = Prepared("movielens", folder)
    assert got.events.select("item", "weight").rows() == [("1193", 5), ("661", 3)]
    assert got.rows[0] == ("1", "1193", utc(2000, 12, 31, 22, 12, 40))
    assert got.texts == {
        "661": "Misérables: The Film, Les (1995). Drama, Musical",
        "1193": "Cuckoo::Nest (1975). Drama",
    }
    assert got.catalog["year"].to_list() == [1975, 1995]


def test_movielens_reads_csv_files_with_quoted_titles(folder):
    write(folder / "ratings.csv", "userId,movieId,rating,timestamp", "1,11,3.5,1256677221", "2,99,4.0,1256677460")
    write(
        folder / "movies.csv",
        "movieId,title,genres",
        '11,"American President, The (1995)",Comedy|Drama|Romance',
        "12,Untitled,(no genres listed)",
    )
    got = Prepared("movielens", folder)
    assert got.events["weight"].to_list() == [3.5, 4]
    assert got.texts == {
        "11": "American President, The (1995). Comedy, Drama, Romance",
        "12": "Untitled",
        "99": "99",
    }
    assert got.catalog["genres"].to_list() == ["Comedy|Drama|Romance", None, None]


RETAIL = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


def test_online_retail_makes_baskets_of_invoices_and_leaves_out_what_is_no_purchase(folder):
    write(
        folder / "data.csv",
        RETAIL,
        "536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,12/1/2010 8:26,2.55,17850.0,United Kingdom",
        "536365,85123a,WHITE HANGING HEART T-LIGHT HOLDER,2,12/1/2010 8:27,2.55,17850.0,United Kingdom",
        "536365,71053,WHITE  METAL LANTERN,6,12/1/2010 8:27,3.39,17850.0,United Kingdom",
        "536370,POST,POSTAGE,3,12/1/2010 8:45,18,12583.0,France",
        "537000,71053,WHITE METAL LANTERN,1,12/13/2010 9:40,3.39,17850.0,United Kingdom",
        "C536379,71053,WHITE METAL LANTERN,-1,12/13/2010 9:41,3.39,17850.0,United Kingdom",
        "536544,DCGSSGIRL,GIRLS PARTY BAG,1,12/1/2010 14:32,3.36,,United Kingdom",
        "536545,71053,damages,-5,12/1/2010 14:33,0,,United Kingdom",
        "536546,gift_0001_20,Dotcomgiftshop Gift Voucher £20.00,1,12/1/2010 14:33,17,,United Kingdom",
        encoding="latin-1",
    )
    got = Prepared("online-retail", folder)
    at = utc(2010, 12, 1, 8, 26)
    assert got.rows == [
        ("17850", "71053", at),
        ("17850", "85123A", at),
        ("17850", "71053", utc(2010, 12, 13, 9, 40)),
    ]
    assert got.events.sort("item", "time")["weight"].to_list() == [6, 1, 8]
    assert got.texts == {
        "71053": "WHITE METAL LANTERN",
        "85123A": "WHITE HANGING HEART T-LIGHT HOLDER",
        "DCGSSGIRL": "GIRLS PARTY BAG",
    }
    assert got.summary.left_out == {
        "cancelled or corrected lines": 2,
        "lines for fees and vouchers": 2,
        "further lines of an invoice for the same article": 1,
        "lines without a customer": 1,
    }


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2010-12-01 08:26:00", utc(2010, 12, 1, 8, 26)),
        ("13-12-2010 08:26", utc(2010, 12, 13, 8, 26)),
        ("13/12/2010 8:26", utc(2010, 12, 13, 8, 26)),
    ],
)
def test_online_retail_reads_the_second_edition_and_times_of_other_spreadsheets(folder, time, expected):
    write(
        folder / "online_retail_II.csv",
        "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country",
        f"489434,85048,15CM CHRISTMAS GLASS BALL 20 LIGHTS,12,{time},6.95,13085.0,United Kingdom",
    )
    assert Prepared("online-retail", folder).rows == [("13085", "85048", expected)]


def test_online_retail_reads_parquet(folder):
    pl.DataFrame(
        {
            "InvoiceNo": ["536365"],
            "StockCode": ["71053"],
            "Description": ["WHITE METAL LANTERN"],
            "Quantity": [6],
            "time": [utc(2010, 12, 1, 8, 26)],
            "CustomerID": [17850],
        }
    ).write_parquet(folder / "invoices.parquet")
    assert Prepared("online-retail", folder).rows == [("17850", "71053", utc(2010, 12, 1, 8, 26))]


def test_online_retail_is_refused_when_times_cannot_be_read(folder):
    write(folder / "data.csv", RETAIL, "536365,71053,LANTERN,6,40513.35,3.39,17850,United Kingdom")
    with pytest.raises(DataError, match=r"data.csv: column time: got '40513.35'; expected a time such as"):
        Prepared("online-retail", folder)
