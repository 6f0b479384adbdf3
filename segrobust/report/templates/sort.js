"use strict";
// Makes the headings of tables of the class "sortable" buttons that sort its rows; a second press turns the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const number = (text) => (text === "\u221e" ? Infinity : parseFloat(text));
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turned = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", turned === 1 ? "ascending" : "descending");
      const keyed = [...body.rows].map((row) => [row.cells[column].textContent.trim(), row]);
      const numeric = column > 0 && keyed.some(([text]) => !Number.isNaN(number(text))) && head.dataset.kind !== "text";
      const missing = (text) => text === "\u2013" || (numeric && Number.isNaN(number(text)));
      const compare = numeric ? (a, b) => (a === b ? 0 : number(a) - number(b))
                              : new Intl.Collator(undefined, { numeric: true }).compare;
      keyed.sort(([a], [b]) => missing(a) - missing(b) || (missing(a) ? 0 : turned * compare(a, b)));
      body.append(...keyed.map(([, row]) => row));
    });
  });
}
