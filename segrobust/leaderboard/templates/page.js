"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const value = (row, column) => row.children[column].dataset.sort ?? "";
  const compare = (a, b, down) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = [Number(a), Number(b)];
    const order = numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
    return down ? -order : order;
  };

  for (const table of all("table.board")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const first = head.dataset.first;
        const next = !now ? first : now === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        const body = table.tBodies[0];
        const sorted = [...body.rows].sort((a, b) =>
          compare(value(a, column), value(b, column), next === "descending") || a.dataset.place - b.dataset.place);
        body.append(...sorted);
      });
    });
  }

  const input = document.getElementById("search");
  const output = document.getElementById("found");
  const rows = all("table.board tbody tr");
  const texts = new Map(rows.map((row) => {
    const details = document.getElementById(row.dataset.entry);
    return [row, `${row.textContent} ${details.textContent} ${details.dataset.group}`.toLowerCase()];
  }));
  const search = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const row of rows) {
      const fits = words.every((word) => texts.get(row).includes(word));
      row.hidden = !fits;
      document.getElementById(row.dataset.entry).hidden = !fits;
      found += fits;
    }
    for (const group of all("section.group")) {
      group.hidden = words.length > 0 && all("tbody tr", group).every((row) => row.hidden);
    }
    output.textContent = words.length ? `${found} of ${rows.length} entries` : "";
  };
  input.addEventListener("input", search);
  document.querySelector(".tools").hidden = false;

  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.firstElementChild.focus({ preventScroll: true });
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => all("details").forEach((one) => { one.open = true; }));
})();
