// The page: what arrives is handed to its parts, and what changes is said.

import { ask, token } from "./api.js";
import { Charts } from "./charts.js";
import { addTag, advanceTag, askToken, editTag, pair } from "./dialogs.js";
import { duration, grouped } from "./format.js";
import { nodeState } from "./states.js";
import { Stream } from "./stream.js";
import { TagTable } from "./tags.js";
import { startTheme } from "./themes.js";

const byId = (id) => document.getElementById(id);
/// Figures older than this are called so.
const STALE_MS = 3_000;
const TABLE_EVERY = 2;
const STATUS_EVERY = 10;
const SAID_MS = 10_000;
const LINES_SAID_MAX = 3;
const ALARMS = ["fenced", "starving", "broken", "exhausted"];

const charts = new Charts();
startTheme(() => charts.restyle());

let newest = null;
let newestAt = null;
let samples = 0;
let connection = { name: "connecting" };

/// The server's time, as far as it is known: its clock and the browser's may differ.
const now_ms = () => (newest === null ? Date.now() : newest.t_ms + (performance.now() - newestAt));

const table = new TagTable({ onAction: act, now_ms });

// --- what arrives

const stream = new Stream({ onEvent, onState, authorize });
stream.run();

function onEvent(name, data) {
  if (name === "history") {
    charts.history(data);
    if (data.length > 0) showSample(data.at(-1));
    showStatus();
    table.load();
  } else if (name === "sample") {
    charts.sample(data);
    showSample(data);
    samples += 1;
    if (!document.hidden && samples % TABLE_EVERY === 0) table.refresh();
    if (!document.hidden && samples % STATUS_EVERY === 0) showStatus();
  }
}

function onState(state) {
  connection = state;
  showConnection();
}

async function authorize() {
  await askToken();
  showTokenButton();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  charts.draw();
  stream.retryNow();
  table.refresh();
});
addEventListener("online", () => stream.retryNow());

// --- what is shown

function showSample(sample) {
  const before = newest;
  newest = sample;
  newestAt = performance.now();
  byId("fact-total").textContent = grouped(sample.tags.total);
  byId("fact-connections").textContent = grouped(sample.connections);
  for (const alarm of ALARMS) {
    byId(`fact-${alarm}`).textContent = grouped(sample.tags[alarm]);
    document.querySelector(`[data-alarm=${alarm}]`).classList.toggle("alarm", sample.tags[alarm] > 0);
  }
  announceChange(before, sample);
  showConnection();
}

function announceChange(before, sample) {
  if (before === null) return;
  const changes = ALARMS.filter((alarm) => before.tags[alarm] !== sample.tags[alarm]).map(
    (alarm) => `${sample.tags[alarm]} ${sample.tags[alarm] === 1 ? "tag is" : "tags are"} ${alarm}.`,
  );
  if (before.health !== sample.health) {
    changes.unshift(`The node is now: ${nodeState(sample.health).name}. ${sample.health_detail ?? ""}`);
  }
  if (changes.length > 0) announce(changes.join(" "));
}

async function showStatus() {
  let status;
  try {
    status = await ask("GET", "/api/status");
  } catch {
    return; // The stream says so too.
  }
  const { store } = status;
  const away = () =>
    `away for ${duration((now_ms() - store.since_ms) / 1000)}: ${store.last_error ?? "no answer"}`;
  const answers = store.state === "answering";
  const parts = [store.kind, store.host, answers ? "answering" : away()];
  byId("fact-store").textContent = parts.filter((part) => part !== null).join(" · ");
  document.querySelector("[data-alarm=store]").classList.toggle("alarm", !answers);
  byId("fact-uptime").textContent = duration(status.uptime_s);
  byId("fact-version").textContent =
    status.commit === null ? status.version : `${status.version} (${status.commit.slice(0, 8)})`;
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  byId("config").replaceChildren(
    ...Object.entries(status.config).map(([key, value]) => pair(key, shown(value))),
  );
}

/// The node's health, which nobody knows who has no figures of now.
function showHealth(stale) {
  const known = newest !== null && !stale;
  const { name, level } = known ? nodeState(newest.health) : { name: "Unknown", level: "unknown" };
  const wrong = known ? ALARMS.filter((alarm) => newest.tags[alarm] > 0) : [];
  byId("health").dataset.level = level;
  byId("health-text").textContent = name;
  byId("health-detail").textContent = known ? (newest.health_detail ?? "") : "";
  const alarms = wrong.map((alarm) => `${newest.tags[alarm]} ${alarm}`);
  document.title = [...alarms, `${name} · idalloc`].join(", ");
}

/// Whether the figures are of now, and if not, since when and why.
function showConnection() {
  const age_ms = newest === null ? Infinity : performance.now() - newestAt;
  const stale = connection.error !== undefined || (newest !== null && age_ms > STALE_MS);
  const live = connection.name === "live" && !stale;
  const was = byId("live").dataset.state;
  const is = live ? "live" : stale ? "stale" : "connecting";
  byId("live").dataset.state = is;
  byId("live-text").textContent = { live: "Live", stale: "Stale", connecting: "Connecting" }[is];
  document.body.classList.toggle("is-stale", stale);
  byId("stale").hidden = !stale;
  showHealth(stale);
  if (stale) byId("stale-text").textContent = staleText(age_ms);
  if (is !== was && is === "stale") announce("The figures are stale: the connection to the server is lost.");
  if (is !== was && is === "live" && was === "stale") announce("The figures are live again.");
}

function staleText(age_ms) {
  const last = newest === null ? "No figures yet." : `These figures are ${duration(age_ms / 1000)} old.`;
  const why = connection.error?.message ?? "";
  const left_s = Math.ceil((connection.retryAt - performance.now()) / 1000);
  const next = left_s > 0 ? `Trying again in ${left_s} s.` : "Trying again.";
  return [last, why, next].filter((part) => part !== "").join(" ");
}

setInterval(showConnection, 500);

/// Says something for a while, to the eye and to a screen reader.
function announce(text) {
  say("announce", text);
}

/// The same for what went wrong, which interrupts.
function announceProblem(text) {
  say("alert", text);
}

function say(id, text) {
  const line = document.createElement("p");
  line.textContent = text;
  byId(id).append(line);
  setTimeout(() => line.remove(), SAID_MS);
  if (byId(id).childElementCount > LINES_SAID_MAX) byId(id).firstElementChild.remove();
}

// --- what the operator does

async function act(action, tag) {
  try {
    const done = action === "advance" ? await advanceTag(tag.app_tag, tag.fault) : await editTag(tag.app_tag);
    if (done !== null) finish(done);
  } catch (error) {
    if (error.status === 401) await authorize();
    else announceProblem(`${tag.app_tag}: ${error.message}`);
  }
}

function finish(done) {
  announce(done);
  table.load();
}

function showTokenButton() {
  byId("forget-token").hidden = token.get() === null;
}

byId("add").addEventListener("click", async () => {
  const done = await addTag();
  if (done !== null) finish(done);
});
byId("retry").addEventListener("click", () => stream.retryNow());
byId("forget-token").addEventListener("click", () => {
  token.forget();
  location.reload();
});
showTokenButton();
