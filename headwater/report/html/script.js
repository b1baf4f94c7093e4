"use strict";
// Tables: a click on a head sorts by its column, a second click the other way.
for (const table of document.querySelectorAll("table[data-sort]")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.setAttribute("aria-sort", "none");
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const [m, n] = [Number(x), Number(y)];
        const by = Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y, undefined, { numeric: true }) : m - n;
        return up ? by : -by;
      };
      body.append(...[...body.rows].sort(order));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort();
    });
  });
}
// Maps: a choice of colours, and what a point is when the pointer is on it.
for (const box of document.querySelectorAll(".mapbox")) {
  const map = box.querySelector(".map");
  const select = box.querySelector("select");
  select?.addEventListener("change", () => {
    map.dataset.by = select.value;
    for (const legend of box.querySelectorAll(".legend")) legend.hidden = legend.dataset.of !== select.value;
  });
  const tip = box.querySelector(".tip");
  const [picture, words] = tip.children;
  const show = (point) => {
    words.textContent = point.dataset.w;
    const place = point.dataset.p;
    picture.hidden = place === undefined;
    if (place !== undefined) {
      const side = Number(tip.dataset.side);
      const columns = Number(tip.dataset.columns);
      picture.style.width = picture.style.height = `${side}px`;
      picture.style.backgroundPosition = `-${(place % columns) * side}px -${Math.floor(place / columns) * side}px`;
    }
    tip.hidden = false;
    const outer = box.getBoundingClientRect();
    const inner = point.getBoundingClientRect();
    const left = Math.min(inner.right - outer.left + 8, outer.width - tip.offsetWidth - 4);
    const top = Math.min(inner.top - outer.top + 12, outer.height - tip.offsetHeight - 4);
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, top)}px`;
  };
  map.addEventListener("pointerover", (event) => event.target.matches("circle") && show(event.target));
  map.addEventListener("pointerout", () => { tip.hidden = true; });
}
