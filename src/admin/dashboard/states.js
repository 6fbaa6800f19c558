// What a tag and the node can be, and how much that matters.

const TAG_STATES = {
  fenced: { name: "Fenced", level: "bad" },
  broken: { name: "Broken", level: "bad" },
  exhausted: { name: "Exhausted", level: "bad" },
  starving: { name: "Starving", level: "warn" },
  serving: { name: "Serving", level: "ok" },
  idle: { name: "Idle", level: "idle" },
};

const NODE_STATES = {
  serving: { name: "Serving", level: "ok" },
  starting: { name: "Starting", level: "warn" },
  starving: { name: "Starving", level: "bad" },
  store_away: { name: "Store away", level: "bad" },
  stopping: { name: "Stopping", level: "warn" },
};

const unknown = (name) => ({ name, level: "unknown" });

export const tagState = (state) => TAG_STATES[state] ?? unknown(state);
export const stateName = (state) => tagState(state).name;
export const nodeState = (state) => NODE_STATES[state] ?? unknown(state);
