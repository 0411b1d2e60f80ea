"use strict";
const numeric = /^[-+±]?[\d,]*\.?\d+(e[-+]?\d+)?/i;
const value = (row, column) => row.cells[column].textContent.trim();
const number = (text) => { const match = text.match(numeric); return match ? Number(match[0].replaceAll(/[,±]/g, "")) : NaN; };

// Sort a table by the chosen column: as numbers where the cells begin with one, as text otherwise; empty cells last.
const sort = (head) => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const rows = [...body.rows], as_numbers = rows.some((row) => numeric.test(value(row, column)));
  rows.sort((a, b) => {
    const [p, q] = [value(a, column), value(b, column)];
    if (!as_numbers) return direction * p.localeCompare(q, "en");
    const [m, n] = [number(p), number(q)];
    return Number.isNaN(m) - Number.isNaN(n) || (Number.isNaN(m) ? 0 : direction * (m - n));
  });
  body.append(...rows);
};
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sort(button.closest("th")));
