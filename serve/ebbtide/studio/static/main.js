// @ts-check
/** The state of the page, and what each control does to it. Every change asks the gateway for a new list. */

import { eventsOf, explain, learnTitles, offersSlates, Refused, search, title, Unreachable, users } from "/studio/server.js";
import { at, drawAlpha, drawBands, drawEvents, drawLegend, drawList, drawWords, make } from "/studio/view.js";
import { date, languageTag, number, otherLanguage, span, words } from "/studio/words.js";

/** @typedef {import("/studio/server.js").Event} Event */
/** @typedef {import("/studio/server.js").Settings} Settings */

const MINUTE_MS = 60_000;
const LONGEST_MS = 5 * 365.25 * 86_400_000;
const MOST_EVENTS = 512;
const AGAIN_MS = 1_000;

const state = {
  /** @type {Event[]} */
  events: [],
  newestMs: Date.now(),
  aheadMs: 0,
  seen: false,
  /** Settings of the first list, and of the second where there is one. @type {Settings[]} */
  settings: [{ alpha: null, decay: 1, diversity: 0 }],
  /** Whether the server offers diversity. */
  hasDiversity: false,
  /** Ranks in the last lists. @type {Map<string, number>[]} */
  ranks: [new Map(), new Map()],
  /** For each list, shows the alpha that the model decided. @type {((alpha: number) => void)[]} */
  showDecided: [],
};

const nowMs = () => state.newestMs + state.aheadMs;
/** The slider is as fine near the newest event as far from it. @param {number} position 0 to 1000 */
const aheadOf = (position) => (position ? MINUTE_MS * (LONGEST_MS / MINUTE_MS) ** (position / 1000) : 0);

let isAsking = false;
let isStale = false;
let isOfferKnown = false;

/** Asks for new lists; while one request runs, only the newest state waits for the next. */
async function update() {
  drawTime();
  if (isAsking) {
    isStale = true;
    return;
  }
  isAsking = true;
  document.body.dataset.busy = "yes";
  do {
    isStale = false;
    try {
      await ask();
      at("problem").hidden = true;
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
      at("problem").textContent = error instanceof Refused ? error.message : words().unreachable;
      at("problem").hidden = false;
      if (error instanceof Unreachable) {
        // What comes back may be another server.
        isOfferKnown = false;
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
        isStale = true;
      }
    }
  } while (isStale);
  isAsking = false;
  delete document.body.dataset.busy;
}

/** Asks what the server offers, if it is not known. */
async function learnOffers() {
  if (isOfferKnown) return;
  const hasDiversity = await offersSlates();
  isOfferKnown = true;
  if (hasDiversity === state.hasDiversity) return;
  state.hasDiversity = hasDiversity;
  if (!hasDiversity) for (const one of state.settings) one.diversity = 0;
  drawSettings();
}

async function ask() {
  await learnOffers();
  const { settings, seen } = state;
  const [events, now] = [state.events, Math.round(nowMs())];
  const answers = await Promise.all(settings.map((one) => explain(events, now, one, seen)));
  await learnTitles(answers.flatMap((answer) => answer.items.map((item) => item.item_id)));
  if (events !== state.events || settings.length !== state.settings.length) return;
  drawEvents(events, answers[0], remove);
  drawAlpha(answers[0]);
  drawBands(answers[0]);
  drawLegend(answers);
  answers.forEach((answer, side) => {
    if (settings[side].alpha === null) state.showDecided[side](answer.alpha_used);
    state.ranks[side] = drawList(at(`list-${side}`), answer, state.ranks[side], (item) => take(item.item_id));
  });
  at("status").textContent = words().updated(date(now));
  document.body.dataset.now = String(now);
}

function drawTime() {
  const ahead = state.aheadMs ? words().ahead(span(state.aheadMs)) : words().atNewest;
  at("now-shown").textContent = date(nowMs()) + (state.events.length ? ` (${ahead})` : "");
}

/** @param {Event[]} events @param {number} newestMs */
function setEvents(events, newestMs) {
  state.events = events;
  state.newestMs = newestMs;
  state.aheadMs = 0;
  at("ahead").value = 0;
  update();
}

/** Starts with the events of another user, to whose list no item moved. @param {Event[]} events @param {number} newestMs */
function setUser(events, newestMs) {
  state.ranks = [new Map(), new Map()];
  setEvents(events, newestMs);
}

/** Adds an event now. @param {string} itemId */
async function take(itemId) {
  await learnTitles([itemId]);
  const event = { item_id: itemId, title: title(itemId), time_ms: Math.round(nowMs()), weight: null };
  setEvents([...state.events, event].slice(-MOST_EVENTS), nowMs() + MINUTE_MS);
}

/** @param {number} index */
function remove(index) {
  state.events = state.events.filter((_, other) => other !== index);
  update();
}

/** @param {Record<string, string>} attributes @returns {HTMLInputElement} */
const input = (attributes) => /** @type {any} */ (make("input", attributes));

/**
 * A slider under its name and its value. Without an id the label would be that of the value, which comes first.
 * @param {string} id @param {string} name @param {Node} shown @param {Element} slider
 */
function labelled(id, name, shown, slider) {
  slider.id = id;
  return make("label", { for: id }, `${name} `, shown, slider);
}

/** The controls of one list's settings. @param {number} side */
function settingsOf(side) {
  const settings = state.settings[side];
  const alpha = input({ type: "range", min: "0", max: "1", step: "0.01", value: String(settings.alpha ?? 0.5) });
  const own = input({ type: "checkbox" });
  const decay = input({ type: "range", min: "-3", max: "3", step: "0.1", value: String(Math.log2(settings.decay)) });
  const diversity = input({ type: "range", min: "0", max: "1", step: "0.05", value: String(settings.diversity) });
  const [alphaShown, decayShown, diversityShown] = [make("output"), make("output"), make("output")];
  const legend = side ? words().second : words().first;
  const draw = () => {
    own.checked = settings.alpha === null;
    alpha.disabled = own.checked;
    if (settings.alpha !== null) alphaShown.textContent = number(settings.alpha, 2);
    decayShown.textContent = `× ${number(settings.decay, 2)}`;
    diversityShown.textContent = settings.diversity ? number(settings.diversity, 2) : words().none;
  };
  const set = () => {
    settings.alpha = own.checked ? null : Number(alpha.value);
    settings.decay = Number((2 ** Number(decay.value)).toFixed(3));
    settings.diversity = Number(diversity.value);
    draw();
    update();
  };
  state.showDecided[side] = (decided) => {
    alpha.value = String(decided);
    alphaShown.textContent = number(decided, 2);
  };
  for (const control of [alpha, own, decay, diversity]) control.addEventListener("input", set);
  draw();
  return make(
    "fieldset",
    {},
    make("legend", {}, legend),
    labelled(`alpha-${side}`, words().alpha, alphaShown, alpha),
    make("label", { class: "check" }, own, ` ${words().own}`),
    labelled(`decay-${side}`, words().decay, decayShown, decay),
    ...(state.hasDiversity ? [labelled(`diversity-${side}`, words().diversity, diversityShown, diversity)] : []),
  );
}

function drawSettings() {
  at("settings").replaceChildren(...state.settings.map((_, side) => settingsOf(side)));
}

/** Draws what depends on the language and on the number of lists. */
function drawFrame() {
  document.documentElement.lang = languageTag();
  drawWords();
  at("language").textContent = languageTag() === "en" ? "中文" : "English";
  at("language").lang = languageTag() === "en" ? "zh" : "en";
  drawSettings();
  at("lists").className = state.settings.length > 1 ? "two" : "";
  at("lists").replaceChildren(
    ...state.settings.map((_, side) => {
      const list = make("ol", { class: "plain ranked", id: `list-${side}` });
      const heading = make("h3", {}, side ? words().second : words().first);
      return make("div", {}, ...(state.settings.length > 1 ? [heading] : []), list);
    }),
  );
  state.ranks = [new Map(), new Map()];
  showFound();
}

let newestSearch = 0;

async function showFound() {
  const mine = ++newestSearch;
  const text = at("search").value.trim();
  const items = text ? await search(text).catch(() => []) : [];
  if (mine !== newestSearch) return;
  const rows = items.map((item) => {
    const button = make("button", { type: "button", class: "found" }, item.title);
    button.addEventListener("click", () => take(item.item_id));
    return make("li", {}, button);
  });
  if (text && !rows.length) rows.push(make("li", { class: "quiet" }, words().nothingFound));
  at("found").replaceChildren(...rows);
}

async function load() {
  try {
    const events = await eventsOf(at("user").value.trim());
    setUser(events, events[events.length - 1].time_ms + MINUTE_MS);
  } catch (error) {
    at("problem").textContent = error instanceof Refused ? error.message : words().unreachable;
    at("problem").hidden = false;
  }
}

function connect() {
  at("user-form").addEventListener("submit", (/** @type {Event & any} */ event) => {
    event.preventDefault();
    load();
  });
  at("nobody").addEventListener("click", () => {
    at("user").value = "";
    setUser([], state.newestMs);
  });
  at("search").addEventListener("input", showFound);
  at("ahead").addEventListener("input", () => {
    state.aheadMs = aheadOf(Number(at("ahead").value));
    update();
  });
  at("back").addEventListener("click", () => {
    state.aheadMs = 0;
    at("ahead").value = 0;
    update();
  });
  at("seen").addEventListener("change", () => {
    state.seen = at("seen").checked;
    update();
  });
  at("compare").addEventListener("change", () => {
    state.settings = at("compare").checked ? [state.settings[0], { ...state.settings[0] }] : [state.settings[0]];
    drawFrame();
    update();
  });
  at("language").addEventListener("click", () => {
    otherLanguage();
    drawFrame();
    update();
  });
  at("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "")) === "dark";
    root.dataset.theme = isDark ? "light" : "dark";
  });
}

drawFrame();
connect();
const examples = await users().catch(() => []);
at("users").replaceChildren(...examples.map((id) => make("option", { value: id })));
if (examples.length) {
  at("user").value = examples[0];
  await load();
} else {
  update();
}
