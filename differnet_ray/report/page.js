"use strict";
// The page is whole without this script: it adds filters to the long tables, and sorting to their headers.

const order = new Intl.Collator(undefined, { numeric: true });

const differs = (choice, value) => Boolean(choice?.value) && choice.value !== value; // not every table has each choice

function addFilter(form) {
  const rows = [...document.getElementById(form.dataset.for).tBodies[0].rows];
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const count = form.querySelector("output");
  const apply = () => {
    const { category, status, text } = form.elements;
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = differs(category, row.dataset.category) || differs(status, row.dataset.status) || !words.get(row).includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply(); // a browser may have kept what was typed before a reload
}

function compareBy(column, kind, sign) {
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  return (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what is not known is last, whichever the direction
    return sign * (kind === "number" ? Number(x) - Number(y) || 0 : order.compare(x, y));
  };
}

function addSorting(header) {
  const table = header.closest("table");
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  header.append(button);
  button.addEventListener("click", () => {
    const first = header.dataset.sort === "number" ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const direction = header.getAttribute("aria-sort") === first ? other : first;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction);
    const compare = compareBy(header.cellIndex, header.dataset.sort, direction === "ascending" ? 1 : -1);
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  });
}

document.querySelectorAll("form[data-for]").forEach(addFilter);
document.querySelectorAll("th[data-sort]").forEach(addSorting);
