// The page: what arrives is handed to its parts, and what changes is said.

import { ask, token } from "./api.js";
import { Charts } from "./charts.js";
import { addTag, advanceTag, askToken, editTag, pair } from "./dialogs.js";
import { name as isolated, show, visible } from "./escape.js";
import { duration, grouped } from "./format.js";
import { SharedStream } from "./shared.js";
import { nodeState } from "./states.js";
import { TagTable } from "./tags.js";
import { startTheme } from "./themes.js";

const byId = (id) => document.getElementById(id);
/// Figures older than this are called stale.
const STALE_MS = 3_000;
/// A tab that nobody has seen for so long lets go of its connection, or of the tab that has it for all.
const HIDDEN_MS = 5_000;
/// How often it asks then, so that its title tells of alarms.
const HIDDEN_STATUS_MS = 30_000;
const TABLE_EVERY = 2;
const STATUS_EVERY = 10;
const SAID_MS = 10_000;
const LINES_SAID_MAX = 3;
const ALARMS = ["fenced", "starving", "broken", "exhausted"];

document.querySelector(".unscripted").remove();
const charts = new Charts();
startTheme(() => charts.restyle());

let newest = null;
let newestAt = null;
let samples = 0;
let connection = { name: "connecting" };
/// When the page was last seen again: figures from before are not stale yet.
let seenAt = 0;

/// The server's time, as far as it is known: its clock and the browser's may differ.
const now_ms = () => (newest === null ? Date.now() : newest.t_ms + (performance.now() - newestAt));

const table = new TagTable({ onAction: act, now_ms });

// --- what arrives

const stream = new SharedStream({ onOpen, onEvent, onState, authorize });
stream.run();

function onOpen() {
  showStatus();
  table.load();
}

function onEvent(name, data) {
  if (name === "history") {
    charts.history(data);
    if (data.length > 0) showSample(data.at(-1));
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

let hiding;
let asking;

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  clearInterval(asking);
  if (document.hidden) {
    hiding = setTimeout(letGo, HIDDEN_MS);
    return;
  }
  seenAt = performance.now();
  charts.draw();
  stream.resume();
  table.refresh();
});

function letGo() {
  stream.pause();
  asking = setInterval(async () => showTitle(await ask("GET", "api/status").catch(() => null)), HIDDEN_STATUS_MS);
}
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
    changes.unshift(`The node is now: ${nodeState(sample.health).name}. ${visible(sample.health_detail ?? "")}`);
  }
  if (changes.length > 0) announce(changes.join(" "));
}

async function showStatus() {
  let status;
  try {
    status = await ask("GET", "api/status");
  } catch {
    return; // The stream says so too.
  }
  const { store } = status;
  const away = () =>
    `away for ${duration((now_ms() - store.since_ms) / 1000)}: ${store.last_error ?? "no answer"}`;
  const answers = store.state === "answering";
  const parts = [store.kind, store.host, answers ? "answering" : away()];
  show(byId("fact-store"), parts.filter((part) => part !== null).join(" · "));
  document.querySelector("[data-alarm=store]").classList.toggle("alarm", !answers);
  byId("fact-uptime").textContent = duration(status.uptime_s);
  byId("fact-version").textContent =
    status.commit === null ? status.version : `${status.version} (${status.commit.slice(0, 8)})`;
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  byId("config").replaceChildren(
    ...Object.entries(status.config).map(([key, value]) => pair(key, visible(shown(value)))),
  );
}

/// The node's health, which nobody knows who has no figures of now.
function showHealth(stale) {
  const known = newest !== null && !stale;
  const { name, level } = known ? nodeState(newest.health) : { name: "Unknown", level: "unknown" };
  byId("health").dataset.level = level;
  byId("health-text").textContent = name;
  showTitle(known ? newest : null);
  show(byId("health-detail"), known ? (newest.health_detail ?? "") : "");
}

/// What a sample or a status says, or that nothing is known.
function showTitle(figures) {
  const alarms = ALARMS.filter((alarm) => figures?.tags[alarm] > 0).map((alarm) => `${figures.tags[alarm]} ${alarm}`);
  const name = figures === null ? "Unknown" : nodeState(figures.health).name;
  document.title = [...alarms, `${name} · idalloc`].join(", ");
}

/// Whether the figures are of now, and if not, since when and why.
function showConnection() {
  if (connection.name === "paused") return;
  const age_ms = newest === null ? Infinity : performance.now() - newestAt;
  const stale = connection.error !== undefined || (newest !== null && Math.min(age_ms, performance.now() - seenAt) > STALE_MS);
  const live = connection.name === "live" && !stale;
  const was = byId("live").dataset.state;
  const is = live ? "live" : stale ? "stale" : "connecting";
  const waiting = connection.name === "locked" ? "Waiting for the token" : "Connecting";
  byId("live").dataset.state = is;
  byId("live-text").textContent = { live: "Live", stale: "Stale", connecting: waiting }[is];
  document.body.classList.toggle("is-stale", stale);
  byId("stale").hidden = !stale;
  showHealth(stale);
  if (stale) byId("stale-text").textContent = staleText(age_ms);
  if (is !== was && is === "stale") announce("The figures are stale: the connection to the server is lost.");
  if (is !== was && is === "live" && was === "stale") announce("The figures are live again.");
}

function staleText(age_ms) {
  const last = newest === null ? "No figures yet." : `These figures are ${duration(age_ms / 1000)} old.`;
  const why = visible(connection.error?.message ?? "");
  const left_s = Math.ceil((connection.retryAt - performance.now()) / 1000);
  const next = left_s > 0 ? `Trying again in ${left_s} s.` : "Trying again.";
  return [last, why, next].filter((part) => part !== "").join(" ");
}

setInterval(showConnection, 500);

/// Says something for a while, to the eye and to a screen reader.
function announce(...pieces) {
  say("announce", pieces);
}

/// The same for what went wrong, which interrupts.
function announceProblem(...pieces) {
  say("alert", pieces);
}

function say(id, pieces) {
  const line = document.createElement("p");
  line.append(...pieces);
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
    else announceProblem(isolated(tag.app_tag), ": ", visible(error.message));
  }
}

function finish(done) {
  announce(...done);
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
if (document.hidden) hiding = setTimeout(letGo, HIDDEN_MS);
