// The switch between themes: as the system has it, light, or dark.

const KEY = "idalloc-theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const NAMES = { auto: "◐ Auto", light: "○ Light", dark: "● Dark" };

/// `onChange` is called whenever the colours are others.
export function startTheme(onChange) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const chosen = () => localStorage.getItem(KEY) ?? "auto";
  const apply = () => {
    const theme = chosen() === "auto" ? (system.matches ? "dark" : "light") : chosen();
    button.textContent = NAMES[chosen()];
    button.ariaLabel = `Theme: ${chosen()}`;
    if (document.documentElement.dataset.theme === theme) return;
    document.documentElement.dataset.theme = theme;
    onChange();
  };
  button.addEventListener("click", () => {
    const next = NEXT[chosen()];
    if (next === "auto") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}
