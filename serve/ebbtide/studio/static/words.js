// @ts-check
/** All words of the page, in English and Chinese, and numbers, times and half-lives as people read them. */

const EN = {
  studio: "studio",
  lead: "Choose a user or start empty, click items as events, then drag the time forward and watch interests fade.",
  theme: "Light or dark",
  who: "Who",
  user: "User of the log",
  load: "Load",
  nobody: "New user",
  search: "Search the catalog; a click is an event now",
  events: "Events, newest first",
  count: (/** @type {number} */ shown, /** @type {number} */ all) => (shown < all ? `(${shown} of ${all})` : `(${all})`),
  noEvents: "No events: popularity alone ranks the items.",
  nothingFound: "No item has these words.",
  remove: "Remove",
  take: "Add as an event now",
  session: "session",
  left: (/** @type {string} */ share) => `${share} left`,
  when: "Time",
  how: "Settings, and what they do",
  now: "Now:",
  back: "Back to the newest event",
  alpha: "Share of the history (alpha)",
  own: "as the model decides",
  decay: "Speed of decay",
  diversity: "Diversity of the list",
  none: "none",
  seen: "List items that were seen, too",
  compare: "Compare with other settings",
  first: "These settings",
  second: "Other settings",
  alphaHeading: "History or session",
  alphaShown: (/** @type {string} */ alpha) => `alpha ${alpha}`,
  alphaSession: "session",
  alphaHistory: "history",
  cold: {
    COLD_START_NO_EVENTS: "No events yet: a new user gets what is popular now.",
    COLD_START_NO_HISTORY: "Only this session is known.",
    COLD_START_NO_SESSION: "Only the history is known; the session has just begun.",
  },
  bandsHeading: "What the list rests on",
  bandsLead: "Shares of the interest in the scores of the list, by half-life.",
  bands: ["up to 1 hour", "1 hour to 1 day", "1 to 7 days", "7 to 30 days", "1 to 12 months", "over 1 year", "never fades"],
  what: "What is recommended, and why",
  score: "score",
  shares: { history: "history", current: "session", prior: "popularity", repeat: "repeated or related" },
  entered: "new in the list",
  moved: (/** @type {number} */ by) => (by > 0 ? `up ${by}` : `down ${-by}`),
  byDiversity: (/** @type {number} */ by, /** @type {number} */ from) =>
    `moved ${by > 0 ? "up" : "down"} ${Math.abs(by)} by diversity (rank ${from} by score)`,
  byRules: (/** @type {string[]} */ names) =>
    `moved by the rule${names.length > 1 ? "s" : ""} “${names.join("”, “")}” (not in the score)`,
  unfilled: "The list is empty.",
  unreachable: "The gateway does not answer. The page tries again every second.",
  updated: (/** @type {string} */ now) => `List as of ${now}`,
  ahead: (/** @type {string} */ span) => `${span} after the newest event`,
  atNewest: "at the newest event",
};

/** @type {typeof EN} */
const ZH = {
  studio: "工作台",
  lead: "选择一位用户，或从零开始；点击物品产生事件，再向前拖动时间，看兴趣如何消退。",
  theme: "浅色或深色",
  who: "用户",
  user: "日志中的用户",
  load: "载入",
  nobody: "新用户",
  search: "搜索目录；点击即为此刻的事件",
  events: "事件，最新在前",
  count: (shown, all) => (shown < all ? `(${all} 个中的 ${shown} 个)` : `(${all})`),
  noEvents: "没有事件：仅按热度排序。",
  nothingFound: "没有包含这些词的物品。",
  remove: "移除",
  take: "添加为此刻的事件",
  session: "会话",
  left: (share) => `剩余 ${share}`,
  when: "时间",
  how: "设置及其作用",
  now: "当前时间：",
  back: "回到最新事件",
  alpha: "历史的份额（alpha）",
  own: "由模型决定",
  decay: "衰减速度",
  diversity: "列表的多样性",
  none: "无",
  seen: "也列出看过的物品",
  compare: "与另一组设置比较",
  first: "这组设置",
  second: "另一组设置",
  alphaHeading: "历史还是会话",
  alphaShown: (alpha) => `alpha ${alpha}`,
  alphaSession: "会话",
  alphaHistory: "历史",
  cold: {
    COLD_START_NO_EVENTS: "还没有事件：新用户得到当前热门的物品。",
    COLD_START_NO_HISTORY: "只知道本次会话。",
    COLD_START_NO_SESSION: "只知道历史；会话刚刚开始。",
  },
  bandsHeading: "列表的依据",
  bandsLead: "兴趣在列表得分中的份额，按半衰期划分。",
  bands: ["1 小时以内", "1 小时至 1 天", "1 至 7 天", "7 至 30 天", "1 至 12 个月", "1 年以上", "永不消退"],
  what: "推荐结果及原因",
  score: "得分",
  shares: { history: "历史", current: "会话", prior: "热度", repeat: "重复或相关" },
  entered: "新进入列表",
  moved: (by) => (by > 0 ? `上升 ${by}` : `下降 ${-by}`),
  byDiversity: (by, from) => `因多样性${by > 0 ? "上移" : "下移"} ${Math.abs(by)} 位（按得分为第 ${from} 位）`,
  byRules: (names) => `由规则“${names.join("”“")}”调整（未计入得分）`,
  unfilled: "列表为空。",
  unreachable: "网关没有响应。页面每秒重试一次。",
  updated: (now) => `${now} 的列表`,
  ahead: (span) => `最新事件之后 ${span}`,
  atNewest: "最新事件之时",
};

const LANGUAGES = { en: EN, zh: ZH };
/** @type {"en" | "zh"} */
let language = (localStorage.getItem("language") ?? navigator.language).startsWith("zh") ? "zh" : "en";

/** The words of the language in use. */
export const words = () => LANGUAGES[language];

/** The language in use, as a tag. */
export const languageTag = () => language;

/** Changes to the other language. */
export function otherLanguage() {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem("language", language);
}

const UNITS = /** @type {const} */ ([
  ["minute", 60_000],
  ["hour", 3_600_000],
  ["day", 86_400_000],
  ["month", 2_629_800_000],
  ["year", 31_557_600_000],
]);

/** A span of time with one unit. @param {number} ms @returns {string} */
export function span(ms) {
  const [unit, length] = UNITS.findLast(([, each]) => ms >= each) ?? UNITS[0];
  const amount = ms / length;
  const digits = { maximumSignificantDigits: amount >= 100 ? 3 : 2 };
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long", ...digits }).format(amount);
}

/** A date with its time, in UTC. @param {number} ms @returns {string} */
export function date(ms) {
  const format = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });
  return `${format.format(ms)} UTC`;
}

/** A number with so many digits after the point. @param {number} value @param {number} digits @returns {string} */
export function number(value, digits) {
  const format = /** @type {const} */ ({ minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: "negative" });
  return value.toLocaleString(language, format).replace("-", "−");
}

/** A share from 0 to 1 in percent. @param {number} share @returns {string} */
export function percent(share) {
  const digits = share > 0 && share < 0.1 ? 1 : 0;
  return share.toLocaleString(language, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits });
}
