// @ts-check
/** Draws the answers: events with what is left of them, alpha, half-life bands, and lists whose items move. */

import { title } from "/studio/server.js";
import { number, percent, span, words } from "/studio/words.js";

/** @typedef {import("/studio/server.js").Answer} Answer */
/** @typedef {import("/studio/server.js").Event} Event */
/** @typedef {import("/studio/server.js").Explained} Explained */

const DAY_MS = 86_400_000;
const BAND_ENDS_DAYS = [1 / 24, 1, 7, 30, 365.25, Infinity];
const MOST_EVENTS = 60;

/** Where the parts of a score come from, in the order in which they are drawn. */
const SHARES = /** @type {const} */ ({
  history: "history_share",
  current: "current_share",
  prior: "prior_share",
  repeat: "adjustment_share",
});

/** The element with an id. @param {string} id @returns {any} */
export const at = (id) => document.getElementById(id);

/**
 * A new element.
 * @param {string} tag @param {Record<string, string>} [attributes] @param {(Node | string)[]} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Writes the words of the language into the elements that name them. */
export function drawWords() {
  for (const element of document.querySelectorAll("[data-words]")) {
    element.textContent = /** @type {any} */ (words())[/** @type {HTMLElement} */ (element).dataset.words ?? ""];
  }
}

/** The colours of the parts that scores have. @param {Answer[]} answers */
export function drawLegend(answers) {
  const kinds = Object.entries(SHARES).filter(([, field]) => answers.some(({ items }) => items.some((item) => item[field])));
  at("legend").replaceChildren(
    ...kinds.map(([kind]) =>
      make("li", {}, make("span", { class: `swatch ${kind}` }), /** @type {any} */ (words().shares)[kind]),
    ),
  );
}

/**
 * The events, newest first, each with what is left of it.
 * @param {Event[]} events @param {Answer} answer @param {(index: number) => void} remove
 */
export function drawEvents(events, answer, remove) {
  at("event-count").textContent = events.length ? words().count(Math.min(events.length, MOST_EVENTS), events.length) : "";
  at("no-events").hidden = events.length > 0;
  const order = events.map((_, index) => index).sort((a, b) => events[b].time_ms - events[a].time_ms || b - a);
  at("events").replaceChildren(
    ...order.slice(0, MOST_EVENTS).map((index) => {
      const { decay, age_days: age, is_current: isCurrent } = answer.events[index];
      const name = events[index].title;
      const button = make("button", { type: "button", class: "small", "aria-label": `${words().remove}: ${name}` }, "×");
      button.addEventListener("click", () => remove(index));
      const bar = make("div", { class: isCurrent ? "bar current" : "bar history" });
      bar.style.inlineSize = `${100 * decay}%`;
      const about = [span(age * DAY_MS), words().left(percent(decay)), ...(isCurrent ? [words().session] : [])];
      return make(
        "li",
        {},
        make("div", { class: "line" }, make("span", { class: "name" }, name), button),
        make("div", { class: "track", "aria-hidden": "true" }, bar),
        make("div", { class: "quiet" }, about.join(" · ")),
      );
    }),
  );
}

/** Alpha, and what is missing. @param {Answer} answer */
export function drawAlpha(answer) {
  const cold = /** @type {any} */ (words().cold)[answer.cold_start];
  at("alpha-shown").textContent = words().alphaShown(number(answer.alpha_used, 2)) + (cold ? `. ${cold}` : "");
  at("alpha-meter").hidden = answer.cold_start === "COLD_START_NO_EVENTS";
  at("alpha-bar").style.inlineSize = `${100 * answer.alpha_used}%`;
}

/** The shares of the interest in all scores of the list, by half-life. @param {Answer} answer */
export function drawBands(answer) {
  const bands = words().bands.map(() => 0);
  const bandOf = answer.half_life_days.map((days) =>
    days === null ? bands.length - 1 : BAND_ENDS_DAYS.findIndex((end) => days <= end),
  );
  for (const item of answer.items) item.dimension_shares.forEach((share, k) => (bands[bandOf[k]] += share));
  const most = Math.max(...bands.map(Math.abs), 1e-9);
  const each = Math.max(1, answer.items.length);
  at("bands").replaceChildren(
    ...bands.flatMap((share, band) => {
      const bar = make("div", { class: share < 0 ? "bar against" : "bar history" });
      bar.style.inlineSize = `${(100 * Math.abs(share)) / most}%`;
      return [
        make("dt", {}, words().bands[band]),
        make("dd", {}, make("div", { class: "track" }, bar), make("span", { class: "quiet" }, number(share / each, 2))),
      ];
    }),
  );
}

/**
 * A list of items; those that moved glide to where they are now.
 * @param {HTMLElement} list @param {Answer} answer @param {Map<string, number>} before rank of each item in the last list
 * @param {(item: Explained) => void} take
 * @returns {Map<string, number>} the ranks now
 */
export function drawList(list, answer, before, take) {
  const shown = answer.items.filter((item) => item.score !== null);
  const widest = Math.max(...shown.map((item) => sum(positive(item))), 1e-9);
  const old = new Map([...list.children].map((row) => [row.getAttribute("data-item"), row]));
  const from = new Map([...old].map(([id, row]) => [id, row.getBoundingClientRect().top]));
  const rows = shown.map((item, index) => {
    const row = old.get(item.item_id) ?? make("li", { "data-item": item.item_id });
    row.replaceChildren(...rowOf(item, index + 1, before, widest, take));
    return row;
  });
  if (!rows.length) rows.push(make("li", { class: "quiet" }, words().unfilled));
  list.replaceChildren(...rows);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    for (const row of rows) glide(row, from.get(row.getAttribute("data-item")));
  }
  return new Map(shown.map((item, index) => [item.item_id, index + 1]));
}

/** @param {Explained} item */
const positive = (item) => Object.values(SHARES).map((name) => Math.max(0, item[name]));
/** @param {number[]} values */
const sum = (values) => values.reduce((total, value) => total + value, 0);

/**
 * @param {Explained} item @param {number} rank @param {Map<string, number>} before @param {number} widest
 * @param {(item: Explained) => void} take
 */
function rowOf(item, rank, before, widest, take) {
  const name = title(item.item_id);
  const button = make("button", { type: "button", class: "small", "aria-label": `${words().take}: ${name}` }, "+");
  button.title = words().take;
  button.addEventListener("click", () => take(item));
  const move = make("span", { class: "move" });
  const last = before.get(item.item_id);
  if (before.size && last === undefined) move.append(make("span", { class: "up" }, words().entered));
  else if (last !== undefined && last !== rank) {
    move.append(make("span", { class: last > rank ? "up" : "down" }, words().moved(last - rank)));
  }
  const names = /** @type {any} */ (words().shares);
  const parts = Object.entries(SHARES).filter(([, field]) => Math.abs(item[field]) >= 0.0005);
  const bars = make("div", { class: "bars", "aria-hidden": "true" });
  for (const [kind, field] of parts) {
    const bar = make("div", { class: `bar ${kind}${item[field] < 0 ? " against" : ""}` });
    bar.style.inlineSize = `${(100 * Math.abs(item[field])) / widest}%`;
    bars.append(bar);
  }
  const said = parts.map(([kind, field]) => `${names[kind]}\u00a0${signed(item[field])}`);
  return [
    make(
      "div",
      { class: "line" },
      make("span", { class: "rank" }, String(rank)),
      make("span", { class: "name" }, name),
      make("span", { class: "score", title: words().score }, number(item.score ?? 0, 3)),
      button,
    ),
    bars,
    make("div", { class: "quiet parts" }, make("span", {}, said.join("  ")), move),
    ...reasonsOf(item, rank).map((reason) => make("div", { class: "quiet reason" }, reason)),
  ];
}

/** What put an item where it is, beside its score. @param {Explained} item @param {number} rank */
function reasonsOf(item, rank) {
  const reasons = item.rules.length ? [words().byRules(item.rules)] : [];
  if (item.moved_by.length) reasons.push(words().byDiversity(item.score_rank - rank, item.score_rank));
  return reasons;
}

/** @param {number} value */
const signed = (value) => (value < 0 ? "" : "+") + number(value, 2);

/** @param {Element} row @param {number | undefined} from */
function glide(row, from) {
  const by = from === undefined ? 0 : from - row.getBoundingClientRect().top;
  const start = from === undefined ? { opacity: 0 } : { transform: `translateY(${by}px)` };
  if (from === undefined || by) row.animate([start, {}], { duration: 250, easing: "ease-out" });
}
