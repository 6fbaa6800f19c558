// Text of others, made safe to show; `escape.rs` does the same for terminals and logs.

/// What is not seen as itself: controls, spaces other than the blank, marks of direction, and what has no shape.
const HIDDEN =
  /(?! )[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Zs}\p{Default_Ignorable_Code_Point}\u2800]/gu;
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/// The text with every hidden character escaped, such as `\n` or `\u{202e}`.
export const visible = (text) =>
  String(text).replace(HIDDEN, (c) => SHORT[c] ?? `\\u{${c.codePointAt(0).toString(16)}}`);

/// Puts text of ours into an element.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/// Puts text of others into an element.
export const show = (element, text) => write(element, visible(text));

/// A name amid text of ours: what is written from right to left in it does not turn what is around it.
export function name(text) {
  const isolated = document.createElement("bdi");
  show(isolated, text);
  return isolated;
}
