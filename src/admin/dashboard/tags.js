// The table of tags: one page of it, asked of the server whenever something changes.

import { ask } from "./api.js";
import { name as isolated, show, visible, write } from "./escape.js";
import { ago, amount, duration, grouped } from "./format.js";
import { tagState } from "./states.js";

const byId = (id) => document.getElementById(id);
/// What is of interest comes first.
const FIRST_ORDER = { state: "asc", app_tag: "asc", rate: "desc", left: "asc", supply: "asc" };
const SEARCH_PAUSE_MS = 200;

export class TagTable {
  #view = { search: "", sort: "state", order: "asc", offset: 0, limit: 50 };
  #total = 0;
  #rows = new Map();
  #asking = null;
  #now_ms;
  #onAction;

  /// `onAction(action, tag)` is called for "edit" and "advance"; `now_ms()` is the server's time.
  constructor({ onAction, now_ms }) {
    this.#onAction = onAction;
    this.#now_ms = now_ms;
    this.#restore();
    this.#listen();
  }

  /// Asks for the page that is wanted. What was asked for before is not waited for.
  async load() {
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const page = await ask("GET", `api/tags?${new URLSearchParams(this.#view)}`, {
        signal: asking.signal,
      });
      if (asking !== this.#asking) return;
      this.#problem(null);
      if (page.tags.length === 0 && page.total > 0 && this.#view.offset > 0) {
        this.#show({ offset: this.#lastOffset(page.total) });
        return;
      }
      this.#render(page);
    } catch (error) {
      // The page as a whole says that the server does not answer, or wants a token.
      if (asking === this.#asking && error.status > 0 && error.status !== 401) this.#problem(error.message);
    } finally {
      if (asking === this.#asking) this.#asking = null;
    }
  }

  /// The same page again, unless it is being asked for.
  async refresh() {
    if (this.#asking === null) await this.load();
  }

  #problem(message) {
    byId("list-problem").hidden = message === null;
    show(byId("list-problem"), message ?? "");
  }

  #show(change) {
    this.#view = { ...this.#view, ...change };
    this.#keep();
    this.#marks();
    return this.load();
  }

  #lastOffset(total) {
    return Math.max(0, Math.ceil(total / this.#view.limit) - 1) * this.#view.limit;
  }

  /// The view is in the address, so that a reload or a bookmark finds it again.
  #keep() {
    history.replaceState(null, "", `#${new URLSearchParams(this.#view)}`);
  }

  #restore() {
    const kept = new URLSearchParams(location.hash.slice(1));
    const { limit, sort, order } = this.#view;
    const offset = Number.parseInt(kept.get("offset"), 10);
    this.#view = {
      search: kept.get("search") ?? "",
      sort: Object.hasOwn(FIRST_ORDER, kept.get("sort")) ? kept.get("sort") : sort,
      order: kept.get("order") === "desc" ? "desc" : order,
      offset: offset > 0 ? offset : 0,
      limit: ["25", "50", "100"].includes(kept.get("limit")) ? Number(kept.get("limit")) : limit,
    };
    byId("search").value = this.#view.search;
    byId("limit").value = String(this.#view.limit);
    this.#marks();
  }

  /// Marks the column that the table is sorted by.
  #marks() {
    byId("sort-select").value = this.#view.sort;
    for (const column of document.querySelectorAll("[data-sort]")) {
      const sorted = column.dataset.sort === this.#view.sort;
      if (sorted) column.ariaSort = this.#view.order === "asc" ? "ascending" : "descending";
      else column.removeAttribute("aria-sort");
    }
  }

  #listen() {
    let pause;
    byId("search").addEventListener("input", (event) => {
      clearTimeout(pause);
      pause = setTimeout(() => this.#show({ search: event.target.value, offset: 0 }), SEARCH_PAUSE_MS);
    });
    for (const column of document.querySelectorAll("[data-sort]")) {
      column.querySelector("button").addEventListener("click", () => this.#sortBy(column.dataset.sort));
    }
    byId("sort-select").addEventListener("change", (event) => this.#sortBy(event.target.value));
    byId("limit").addEventListener("change", (event) =>
      this.#show({ limit: Number(event.target.value), offset: 0 }),
    );
    const step = (id, offset) => byId(id).addEventListener("click", () => this.#show({ offset: offset() }));
    step("first", () => 0);
    step("previous", () => Math.max(0, this.#view.offset - this.#view.limit));
    step("next", () => this.#view.offset + this.#view.limit);
    step("last", () => this.#lastOffset(this.#total));
  }

  #sortBy(sort) {
    const turn = { asc: "desc", desc: "asc" };
    const order = sort === this.#view.sort ? turn[this.#view.order] : FIRST_ORDER[sort];
    this.#show({ sort, order, offset: 0 });
  }

  #render({ total, offset, tags }) {
    this.#total = total;
    this.#renderRows(tags);
    byId("empty").hidden = tags.length > 0;
    const { search } = this.#view;
    const none = search === "" ? ["There are no tags yet."] : ['No tag has "', isolated(search), '" in its name.'];
    byId("empty").replaceChildren(...none);
    const range =
      total === 0
        ? "No tags"
        : `${grouped(offset + 1)}–${grouped(offset + tags.length)} of ${grouped(total)}`;
    if (byId("range").textContent !== range) byId("range").textContent = range;
    byId("first").disabled = byId("previous").disabled = offset === 0;
    byId("next").disabled = byId("last").disabled = offset + tags.length >= total;
  }

  /// Rows are kept by name, so that one with the focus keeps it.
  #renderRows(tags) {
    const focused = document.activeElement;
    const rows = new Map(
      tags.map((tag) => [tag.app_tag, this.#rows.get(tag.app_tag) ?? new Row(this.#onAction)]),
    );
    for (const [name, row] of this.#rows) if (!rows.has(name)) row.element.remove();
    this.#rows = rows;
    const body = byId("rows");
    let place = body.firstElementChild;
    for (const tag of tags) {
      const row = rows.get(tag.app_tag);
      row.update(tag, this.#now_ms());
      if (row.element === place) place = place.nextElementSibling;
      else body.insertBefore(row.element, place);
    }
    // A row that has changed its place has lost it.
    if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
  }
}

class Row {
  #tag = null;

  constructor(onAction) {
    this.element = byId("row").content.firstElementChild.cloneNode(true);
    const part = (selector) => this.element.querySelector(selector);
    this.parts = {
      state: part(".state"),
      stateText: part(".state .text"),
      name: part(".open"),
      fault: part(".fault"),
      rate: part(".rate"),
      left: part(".left"),
      supply: part(".supply"),
      reserved: part(".reserved"),
      step: part(".step"),
      advance: part(".advance"),
      edit: part(".edit"),
    };
    this.parts.name.addEventListener("click", () => onAction("edit", this.#tag));
    this.parts.edit.addEventListener("click", () => onAction("edit", this.#tag));
    this.parts.advance.addEventListener("click", () => onAction("advance", this.#tag));
  }

  update(tag, now_ms) {
    this.#tag = tag;
    const { parts } = this;
    const { name, level } = tagState(tag.state);
    this.element.dataset.level = level;
    parts.state.dataset.level = level;
    write(parts.stateText, name);
    show(parts.name, tag.app_tag);
    show(parts.fault, tag.fault ?? "");
    write(parts.rate, amount(tag.rate_per_s));
    write(parts.left, grouped(tag.left));
    write(parts.supply, tag.supply_s === null ? "–" : duration(tag.supply_s));
    write(parts.reserved, reserved(tag, now_ms));
    write(parts.step, grouped(tag.step));
    parts.advance.hidden = tag.state !== "fenced";
    parts.edit.ariaLabel = `Edit ${visible(tag.app_tag)}`;
    parts.advance.ariaLabel = `Advance ${visible(tag.app_tag)}`;
  }
}

function reserved({ last_amount, last_reserved_at_ms }, now_ms) {
  if (last_reserved_at_ms === null) return "–";
  return `${grouped(last_amount)}, ${ago((now_ms - last_reserved_at_ms) / 1000)}`;
}
