"""English texts of items, built from words that tell their attributes."""

from __future__ import annotations

import numpy as np

NEWS_FORMATS = ("Live", "Report", "Analysis", "Opinion", "Video")
NEWS_TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "Politics": (
        ("parliament", "the government", "the opposition", "the minister", "the mayor"),
        ("pension reform", "a new tax bill", "the election campaign", "asylum law", "a budget for schools"),
        ("voted on", "debated", "rejected", "argued about", "delayed"),
    ),
    "Economy": (
        ("the central bank", "investors", "a car maker", "exporters", "unions"),
        ("interest rates", "falling share prices", "a merger", "jobs and wages", "rising energy costs"),
        ("reacted to", "prepared for", "warned of", "worried about", "commented on"),
    ),
    "Football": (
        ("the champions", "the coach", "the striker", "the club", "fans"),
        ("a cup final", "a record transfer", "an injury of the captain", "the league table", "a late penalty"),
        ("celebrated", "explained", "commented on", "feared", "talked about"),
    ),
    "Tennis and cycling": (
        ("the favourite", "a young player", "the sprinter", "the world number one", "the team"),
        ("a grand slam match", "a mountain stage", "a doping test", "an Olympic medal", "a comeback after surgery"),
        ("looked back on", "prepared for", "spoke about", "faced", "feared"),
    ),
    "Technology": (
        ("a start-up", "engineers", "a phone maker", "researchers", "regulators"),
        ("artificial intelligence", "a folding phone", "a data leak", "electric cars", "a social network"),
        ("presented", "criticised", "invested in", "tested", "explained"),
    ),
    "Science": (
        ("astronomers", "biologists", "a laboratory", "physicists", "archaeologists"),
        ("a distant planet", "gene therapy", "a fossil skeleton", "fusion energy", "an ancient tomb"),
        ("discovered", "measured", "described", "wondered about", "studied"),
    ),
    "Health": (
        ("doctors", "a hospital", "health insurers", "nurses", "patients"),
        ("a flu vaccine", "sleep problems", "a diet study", "cancer screening", "waiting times"),
        ("asked about", "reported on", "struggled with", "discussed", "warned about"),
    ),
    "Culture": (
        ("the opera", "a novelist", "a museum", "the festival", "a director"),
        ("a film premiere", "a stolen painting", "a literary prize", "a concert tour", "a theatre scandal"),
        ("announced", "celebrated", "apologised for", "discussed", "remembered"),
    ),
    "Crime": (
        ("police", "the court", "a witness", "prosecutors", "detectives"),
        ("a bank robbery", "an online fraud", "a murder trial", "drug smuggling", "a prison escape"),
        ("investigated", "spoke of", "commented on", "described", "warned of"),
    ),
    "Weather": (
        ("forecasters", "the fire brigade", "farmers", "coastal towns", "railways"),
        ("heavy storms", "a heat wave", "flooded roads", "early snow", "a drought"),
        ("expected", "suffered from", "prepared for", "recovered from", "warned of"),
    ),
    "World": (
        ("diplomats", "rebels", "the president", "refugees", "the United Nations"),
        ("peace talks", "a border conflict", "a trade embargo", "a military coup", "a climate summit"),
        ("called for", "ended", "criticised", "reported on", "feared"),
    ),
    "Travel": (
        ("airlines", "hikers", "hotels", "tourists", "a ferry company"),
        ("cheap flights", "a mountain trail", "a beach resort", "night trains", "a city break"),
        ("discovered", "recommended", "complained about", "praised", "booked"),
    ),
}


def _one(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]


def news_text(rng: np.random.Generator, topic: int, subject: int, kind: int) -> str:
    """Such as "Politics: parliament voted on pension reform. Analysis"."""
    name, (actors, subjects, verbs) = list(NEWS_TOPICS.items())[topic]
    return f"{name}: {_one(rng, actors)} {_one(rng, verbs)} {subjects[subject]}. {NEWS_FORMATS[kind]}"


_STYLES = (  # style, what its pieces are said to be
    ("Bohemian", "with embroidery and fringes"),
    ("Minimalist", "with clean lines"),
    ("Streetwear", "with a bold logo print"),
    ("Preppy", "with a college crest"),
    ("Gothic", "with lace and silver buckles"),
    ("Athleisure", "in breathable stretch fabric"),
    ("Vintage", "in a fifties cut"),
    ("Western", "with suede details"),
    ("Romantic", "with ruffles and flowers"),
    ("Business", "for the office"),
    ("Outdoor", "waterproof and windproof"),
    ("Festival", "with glitter and sequins"),
)
STYLES = tuple(name for name, _ in _STYLES)
GARMENTS = (  # garment, day of the year of its peak, how seasonal it is
    ("linen dress", 180, 1.5),
    ("sandals", 190, 2.0),
    ("swimsuit", 185, 2.0),
    ("shorts", 190, 1.5),
    ("rain jacket", 290, 0.7),
    ("wool coat", 345, 2.0),
    ("knitted sweater", 340, 1.5),
    ("ankle boots", 310, 1.2),
    ("scarf and gloves", 355, 1.8),
    ("jeans", 100, 0.2),
    ("T-shirt", 170, 0.6),
    ("shirt", 120, 0.2),
    ("handbag", 130, 0.1),
    ("sneakers", 110, 0.3),
    ("party skirt", 350, 0.6),
    ("blazer", 260, 0.4),
)
COLOURS = ("black", "white", "navy blue", "olive green", "red", "mustard yellow", "lilac", "camel brown")


def fashion_text(style: int, garment: int, colour: int) -> str:
    """Such as "Bohemian linen dress, olive green, with embroidery and fringes"."""
    name, detail = _STYLES[style]
    return f"{name} {GARMENTS[garment][0]}, {COLOURS[colour]}, {detail}"


_NAME_FIRST = (
    *("Silent", "Golden", "Broken", "Hidden", "Northern", "Paper", "Crimson", "Last", "Distant", "Electric", "Velvet"),
    *("Hollow", "Burning", "Frozen", "Second", "Wild", "Glass", "Lonely", "Iron", "Summer", "Midnight", "Lost"),
)
_NAME_SECOND = (
    *("Harbour", "Garden", "Letters", "Road", "River", "Kingdom", "Mirror", "Station", "Island", "Hearts", "Lanterns"),
    *("Shadows", "Promise", "Orchard", "Signal", "Winter", "House", "Horizon", "Echo", "Bridge", "Crown", "Tides"),
)


def made_up_name(rng: np.random.Generator) -> str:
    """Such as "Silent Harbour": says nothing about the item."""
    return f"{_one(rng, _NAME_FIRST)} {_one(rng, _NAME_SECOND)}"


GENRES: dict[str, tuple[str, ...]] = {
    "Crime drama": ("a detective in a small town", "a drug cartel", "a cold case", "a corrupt lawyer", "a heist"),
    "Science fiction": ("a colony on Mars", "robots that feel", "time travel", "an alien signal", "a generation ship"),
    "Fantasy": ("dragons and kings", "a school of magic", "a cursed sword", "elves at war", "a hidden world"),
    "Comedy": ("flatmates in the city", "an office", "a wedding that fails", "a chaotic family", "two bad cooks"),
    "Romance": ("a summer love", "a letter that arrives late", "rivals who fall in love", "a royal affair", "pen pals"),
    "Horror": ("a haunted house", "a masked killer", "vampires", "a lost expedition", "an evil doll"),
    "Documentary": ("ocean life", "a music legend", "a famous fraud", "space missions", "street food"),
    "History": ("a medieval court", "soldiers in the trenches", "Roman emperors", "a revolution", "explorers at sea"),
    "Thriller": ("a spy in Berlin", "a hijacked plane", "a missing child", "a hacker", "a political plot"),
    "Animation": ("talking animals", "a young inventor", "a samurai", "toys that live", "a magic forest"),
    "Sports": ("a boxing champion", "a football team", "a chess prodigy", "racing drivers", "a surf coach"),
    "Medical": ("an emergency room", "a village doctor", "a pandemic", "a surgeon with a secret", "nurses at night"),
}
COUNTRIES = ("American", "British", "Korean", "Spanish", "Nordic", "French")


def film_text(name: str, season: int, genre: int, theme: int, country: int) -> str:
    """Such as "Silent Harbour, season 2. British crime drama series about a cold case"; season 0 is a film."""
    title, kind = (f"{name}, season {season}", "series") if season else (name, "film")
    genre_name, themes = list(GENRES.items())[genre]
    return f"{title}. {COUNTRIES[country]} {genre_name.lower()} {kind} about {themes[theme]}"


MUSIC: dict[str, tuple[str, ...]] = {
    "indie rock": ("jangling guitars", "garage drums", "a lo-fi voice"),
    "hip hop": ("boom bap beats", "trap hi-hats", "jazz samples"),
    "techno": ("a hypnotic bass line", "acid synthesizers", "industrial noise"),
    "folk": ("an acoustic guitar", "a fiddle", "vocal harmonies"),
    "jazz": ("a saxophone solo", "a piano trio", "brushed drums"),
    "metal": ("double bass drums", "growling vocals", "shredding guitars"),
    "pop": ("a catchy chorus", "disco strings", "glossy synthesizers"),
    "classical": ("a string quartet", "a symphony orchestra", "a solo piano"),
    "soul": ("a horn section", "a gospel choir", "a smooth falsetto"),
    "reggae": ("dub echoes", "an off-beat organ", "a deep bass"),
    "ambient": ("slow drones", "field recordings", "soft tape loops"),
    "country": ("a pedal steel guitar", "a banjo", "honky-tonk piano"),
}
MOODS = ("happy", "melancholic", "energetic", "calm", "dark", "romantic", "dreamy", "angry")


def music_text(artist: str, name: str, genre: int, sound: int, mood: int) -> str:
    """Such as "Paper Lanterns by Nora Vale. Dreamy folk with a fiddle"."""
    genre_name, sounds = list(MUSIC.items())[genre]
    return f"{name} by {artist}. {MOODS[mood].capitalize()} {genre_name} with {sounds[sound]}"


_SYLLABLES = ("no", "ra", "vel", "mi", "ka", "ton", "les", "dor", "fin", "sa", "bri", "lo", "wen", "ta", "rik", "zu")


def artist_name(rng: np.random.Generator) -> str:
    """Such as "Nora Velton"."""
    first, second = (
        "".join(_SYLLABLES[int(index)] for index in rng.integers(len(_SYLLABLES), size=2)).capitalize()
        for _ in range(2)
    )
    return f"{first} {second}"


AISLES: dict[str, tuple[tuple[str, ...], float]] = {
    # Products, and how many weeks one purchase lasts.
    "Dairy": (("whole milk", "skimmed milk", "butter", "yoghurt", "cheddar cheese", "cream", "eggs"), 1.0),
    "Bakery": (("white bread", "rye bread", "bagels", "croissants", "rolls", "tortillas"), 1.0),
    "Fruit and vegetables": (("bananas", "apples", "tomatoes", "lettuce", "potatoes", "onions", "grapes"), 1.2),
    "Meat and fish": (("chicken breast", "minced beef", "bacon", "salmon", "sausages", "ham"), 1.5),
    "Vegetarian": (("tofu", "soy drink", "lentils", "veggie burgers", "hummus"), 1.7),
    "Drinks": (("orange juice", "cola", "mineral water", "beer", "red wine", "lemonade"), 2.0),
    "Breakfast": (("cornflakes", "muesli", "coffee", "black tea", "jam", "honey"), 3.0),
    "Pantry": (("spaghetti", "rice", "olive oil", "flour", "tinned beans", "ketchup", "soup"), 3.5),
    "Snacks": (("crisps", "chocolate", "biscuits", "salted nuts", "chewing gum"), 1.7),
    "Frozen": (("pizza", "ice cream", "peas", "fish fingers", "chips"), 2.5),
    "Household": (("toilet paper", "washing powder", "bin bags", "dish soap", "light bulbs"), 5.0),
    "Baby and pets": (("nappies", "baby food", "cat food", "dog food", "cat litter"), 2.0),
}
BRANDS = ("Meadow Farm", "Value Choice", "Old Mill", "Fresh & Fine", "Bio Garden", "Kingsway", "Sunny Day", "House")
SIZES = ("small pack", "family pack", "large pack")
PRODUCTS = tuple((aisle, product, weeks) for aisle, (products, weeks) in AISLES.items() for product in products)


def grocery_text(product: int, brand: int, size: int) -> str:
    """Such as "Whole milk, Meadow Farm, family pack. Dairy"."""
    aisle, name, _ = PRODUCTS[product]
    return f"{name.capitalize()}, {BRANDS[brand]}, {SIZES[size]}. {aisle}"


HOBBIES: dict[str, tuple[str, ...]] = {
    "Gardening": ("growing roses", "pruning fruit trees", "a vegetable bed", "compost", "balcony plants"),
    "Cooking": ("sourdough bread", "Indian curries", "knife skills", "fermenting cabbage", "roasting meat"),
    "Photography": ("portrait light", "street scenes", "developing film", "night skies", "wildlife with long lenses"),
    "Woodworking": ("dovetail joints", "sharpening chisels", "building a bench", "turning bowls", "oil finishes"),
    "Chess": ("the Sicilian defence", "rook endings", "tactics puzzles", "famous games", "opening traps"),
    "Running": ("a first marathon", "interval training", "knee pain", "trail shoes", "breathing"),
    "Painting": ("watercolour skies", "oil portraits", "mixing colours", "perspective", "sketching people"),
    "Programming": ("Python for beginners", "sorting algorithms", "web servers", "databases", "debugging"),
    "Music theory": ("reading notes", "jazz chords", "counterpoint", "rhythm exercises", "ear training"),
    "Languages": ("Spanish verbs", "Japanese writing", "French pronunciation", "Latin texts", "memory cards"),
    "Sewing": ("a simple skirt", "quilting", "mending jeans", "pattern drawing", "embroidery stitches"),
    "Astronomy": ("choosing a telescope", "the moons of Jupiter", "star maps", "meteor showers", "eclipses"),
    "Fishing": ("fly casting", "tying knots", "river trout", "sea bait", "ice fishing"),
    "Yoga": ("sun salutations", "back pain", "meditation", "balance poses", "evening stretching"),
}
LEVELS = ("introduction", "step by step course", "handbook", "advanced masterclass")


def evergreen_text(name: str, hobby: int, subject: int, level: int) -> str:
    """Such as "Glass Garden. Cooking: sourdough bread, an introduction"."""
    hobby_name, subjects = list(HOBBIES.items())[hobby]
    return f"{name}. {hobby_name}: {subjects[subject]}, {LEVELS[level]}"
