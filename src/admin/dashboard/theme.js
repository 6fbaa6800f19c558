// Runs before the first paint, so that the page does not flash in the other theme. Not a module for that reason.
document.documentElement.dataset.theme =
  localStorage.getItem("idalloc-theme") ??
  (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
