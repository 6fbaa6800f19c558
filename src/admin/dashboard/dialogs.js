// Questions to the operator.

import { ApiError, advancePath, ask, tagPath, token } from "./api.js";
import { name as isolated, show, visible, write } from "./escape.js";
import { ago, grouped } from "./format.js";
import { stateName } from "./states.js";

const byId = (id) => document.getElementById(id);

/// Opens a <dialog> with a form. `submit(fields, before)` gets what is in the fields, and what was in them at first: a field
/// may not hold all that a value had, such as line breaks. It may throw; then the dialog stays open and says why. Resolves
/// when it is closed, to whether the form was carried out.
function form(dialog, submit, values = {}) {
  const element = dialog.querySelector("form");
  const problem = dialog.querySelector(".problem");
  const button = element.querySelector("[type=submit]");
  element.reset();
  for (const [name, value] of Object.entries(values)) element.elements[name].value = value;
  const fields = () => Object.fromEntries(new FormData(element));
  const before = fields();
  clear();
  const listeners = new AbortController();
  const { signal } = listeners;
  let done = false;

  function clear() {
    problem.hidden = true;
    for (const field of element.elements) field.removeAttribute("aria-invalid");
  }
  async function run(event) {
    event.preventDefault();
    clear();
    button.disabled = true;
    try {
      await submit(fields(), before);
      done = true;
      dialog.close();
    } catch (error) {
      show(problem, error.message);
      problem.hidden = false;
      const field = error.field && element.elements[error.field];
      if (field) {
        field.setAttribute("aria-invalid", "true");
        field.focus();
      }
    } finally {
      button.disabled = false;
    }
  }

  element.addEventListener("submit", run, { signal });
  dialog.querySelector(".cancel")?.addEventListener("click", () => dialog.close(), { signal });
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        listeners.abort();
        resolve(done);
      },
      { signal },
    );
    dialog.showModal();
  });
}

/// Empty fields are left out.
const given = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== ""));

let tokenAsked = null;

/// Asks for the token until the server takes it; false if the operator gives up. Asked once, however many want to know.
export function askToken() {
  const submit = async (fields) => {
    token.set(fields.token);
    try {
      await ask("GET", "api/status");
    } catch (error) {
      token.forget();
      if (error.status === 401) error.message = "The server does not take this token.";
      throw error;
    }
  };
  tokenAsked ??= form(byId("token-dialog"), submit).finally(() => (tokenAsked = null));
  return tokenAsked;
}

/// What was done to a tag, as pieces of a sentence.
const told = (name, done) => ["Tag ", isolated(name), ` is ${done}.`];

/// Each of these resolves to what was done, as pieces of a sentence, or null.
export async function addTag() {
  let added;
  const submit = async (fields) => (added = await ask("POST", "api/tags", { body: given(fields) }));
  return (await form(byId("add-dialog"), submit)) ? told(added.app_tag, "added") : null;
}

export async function editTag(name) {
  const tag = await ask("GET", tagPath(name));
  const dialog = byId("tag-dialog");
  show(byId("tag-title"), name);
  show(byId("tag-fault"), tag.fault ?? "");
  byId("tag-fault").hidden = tag.fault === null;
  byId("tag-facts").replaceChildren(...facts(tag));
  byId("tag-advance").hidden = tag.state !== "fenced";

  // Where the table has no such column, nothing is to be written into it.
  byId("edit-description-field").hidden = tag.description === null;

  let changes = [];
  const submit = async (fields, before) => {
    changes = Object.entries(fields).filter(([key, value]) => value !== before[key]);
    if (changes.length > 0) await ask("PATCH", tagPath(name), { body: Object.fromEntries(changes) });
  };
  let then = null;
  byId("tag-delete").onclick = () => {
    then = deleteTag;
    dialog.close();
  };
  byId("tag-advance").onclick = () => {
    then = advanceTag;
    dialog.close();
  };
  const values = { step: String(tag.step), description: tag.description ?? "" };
  if (await form(dialog, submit, values)) return changes.length > 0 ? told(name, "changed") : null;
  return then === null ? null : then(name, tag.fault);
}

export async function advanceTag(name, fault) {
  const dialog = byId("advance-dialog");
  show(dialog.querySelector(".tag-name"), name);
  show(byId("advance-fault"), fault ?? "");
  let advanced;
  const submit = async ({ to }) => {
    advanced = await ask("POST", advancePath(name), { body: given({ to }) });
    if (advanced.state === "fenced") throw new ApiError(200, `It is fenced still: ${advanced.fault}.`, "to");
  };
  return (await form(dialog, submit)) ? told(name, "advanced") : null;
}

async function deleteTag(name) {
  const dialog = byId("delete-dialog");
  const confirm = byId("delete-confirm");
  const button = dialog.querySelector("[type=submit]");
  show(dialog.querySelector(".tag-name"), name);
  button.disabled = true;
  // As it is, or as it is shown: what is hidden in a name cannot be typed.
  confirm.oninput = () => (button.disabled = ![name, visible(name)].includes(confirm.value));
  const submit = () => ask("DELETE", tagPath(name, { confirm: name }));
  return (await form(dialog, submit)) ? told(name, "deleted") : null;
}

function facts(tag) {
  const reserved = tag.last_reserved_at_ms;
  const pairs = [
    ["State", stateName(tag.state)],
    ["max_id in the table", grouped(tag.max_id)],
    [
      "Left in memory",
      `${grouped(tag.left)} in ${tag.segments} ${tag.segments === 1 ? "segment" : "segments"}`,
    ],
    ["Issued by this node", grouped(tag.issued)],
    [
      "Last reservation",
      reserved === null
        ? "none yet"
        : `${grouped(tag.last_amount)} IDs, ${ago((Date.now() - reserved) / 1000)}`,
    ],
  ];
  return pairs.map(([name, text]) => pair(name, text));
}

/// A line of a definition list.
export function pair(name, text) {
  const line = document.createElement("div");
  line.append(document.createElement("dt"), document.createElement("dd"));
  write(line.firstChild, name);
  write(line.lastChild, text);
  return line;
}
