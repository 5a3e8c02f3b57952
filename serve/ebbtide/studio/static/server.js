// @ts-check
/** Everything the page asks: the gateway for recommendations with their explanations, and the studio for the rest. */

/**
 * @typedef {{item_id: string, title: string, time_ms: number, weight: number | null}} Event
 * @typedef {{alpha: number | null, decay: number, diversity: number}} Settings
 * @typedef {{item_id: string, score: number | null, history_share: number, current_share: number, prior_share: number,
 *   adjustment_share: number, dimension_shares: number[], rules: string[], score_rank: number,
 *   moved_by: {kind: string}[]}} Explained
 * @typedef {{items: Explained[], alpha_used: number, cold_start: string, half_life_days: (number | null)[],
 *   events: {decay: number, age_days: number, is_current: boolean}[]}} Answer
 */

/** The server answered that it cannot; the message says why. */
export class Refused extends Error {}
/** No server answers, or not now: worth another try. */
export class Unreachable extends Error {}

const BUSY = [429, 502, 503, 504];

/** @param {string} path @param {RequestInit} [options] @returns {Promise<any>} */
async function ask(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Unreachable();
  }
  if (BUSY.includes(reply.status)) throw new Unreachable();
  const content = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Refused(content.detail ?? `HTTP ${reply.status}`);
  return content;
}

/**
 * The list for some events at a time, with the reasons for each item.
 * @param {Event[]} events @param {number} nowMs @param {Settings} settings @param {boolean} seen
 * @returns {Promise<Answer>}
 */
export function explain(events, nowMs, settings, seen) {
  const body = {
    events: events.map((event) => ({
      item_id: event.item_id,
      time: new Date(event.time_ms).toISOString(),
      weight: event.weight,
    })),
    now: new Date(nowMs).toISOString(),
    alpha: settings.alpha,
    decay_scale: settings.decay === 1 ? null : settings.decay,
    exclude_seen: seen ? false : null,
    slate: settings.diversity ? { diversity: settings.diversity } : null,
    unknown_items: "UNKNOWN_ITEM_POLICY_IGNORE",
  };
  return ask("/v1/explain", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
}

/** Whether the server composes slates, which diversity needs. @returns {Promise<boolean>} */
export const offersSlates = async () => (await ask("/studio/offers")).slates;

/** @type {Map<string, string>} */
const known = new Map();

/** Keeps titles for `title`. @param {string[]} itemIds */
export async function learnTitles(itemIds) {
  const missing = itemIds.filter((id) => !known.has(id));
  if (!missing.length) return;
  const query = new URLSearchParams(missing.map((id) => ["item_id", id]));
  const { titles } = await ask(`/studio/titles?${query}`);
  for (const id of missing) known.set(id, titles[id] ?? id);
}

/** The title of an item, or its id. @param {string} itemId */
export const title = (itemId) => known.get(itemId) ?? itemId;

/** Items by the words of their titles. @param {string} words @returns {Promise<{item_id: string, title: string}[]>} */
export const search = async (words) => (await ask(`/studio/search?${new URLSearchParams({ words })}`)).items;

/** Ids of some users of the log. @returns {Promise<string[]>} */
export const users = async () => (await ask("/studio/users")).users;

/** The newest events of a user, oldest first. @param {string} userId @returns {Promise<Event[]>} */
export const eventsOf = async (userId) =>
  (await ask(`/studio/events?${new URLSearchParams({ user_id: userId })}`)).events;
