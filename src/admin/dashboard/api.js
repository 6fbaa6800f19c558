// Requests to the operator's port, and the token that they may need.

const TOKEN_KEY = "idalloc-token";
const TIMEOUT_MS = 35_000;

/// An answer that is no success, or none at all (status 0).
export class ApiError extends Error {
  constructor(status, message, field = null) {
    super(message);
    this.status = status;
    this.field = field;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN_KEY),
  set: (value) => sessionStorage.setItem(TOKEN_KEY, value),
  forget: () => sessionStorage.removeItem(TOKEN_KEY),
};

/// A response with a status of 2xx; whatever else is an ApiError. Paths are relative to the page: it may be under a path of
/// its own behind a proxy.
export async function open(path, options = {}) {
  const headers = { ...options.headers };
  if (token.get() !== null) headers.Authorization = `Bearer ${token.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw options.signal.reason;
    throw new ApiError(0, "The server does not answer.");
  }
  if (response.ok) return response;
  throw await refusal(response);
}

async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `The server answered with status ${response.status}.`;
  return new ApiError(response.status, message, error?.field ?? null);
}

/// Asks for JSON; `body` is sent as JSON.
export async function ask(method, path, { body, signal } = {}) {
  const limits = [AbortSignal.timeout(TIMEOUT_MS), ...(signal ? [signal] : [])];
  const options = { method, signal: AbortSignal.any(limits) };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  try {
    const response = await open(path, options);
    return response.status === 204 ? null : parse(await response.text());
  } catch (error) {
    if (error.name === "TimeoutError") throw new ApiError(0, "The server took too long to answer.");
    throw error;
  }
}

/// JSON whose large integers become text: a JavaScript number would lose their last digits. Browsers from before 2025 do
/// not tell the source of a number, and round it.
export function parse(text) {
  return JSON.parse(text, (_key, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) ? (context?.source ?? value) : value,
  );
}

/// Where a tag is. By a parameter: of a path, browsers take `..` for a direction.
export const tagPath = (name, parameters = {}) => `api/tag?${new URLSearchParams({ app_tag: name, ...parameters })}`;
export const advancePath = (name) => `api/tag/advance?${new URLSearchParams({ app_tag: name })}`;
