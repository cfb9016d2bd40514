"use strict";

// Tabs: panels are stacked without a script and on paper; here all but one are put away.
for (const list of document.querySelectorAll('[role="tablist"]')) {
  const tabs = [...list.querySelectorAll('[role="tab"]')];

  const choose = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls"))
        .classList.toggle("on", tab === chosen);
    }
  };

  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const here = tabs.indexOf(event.target);
    const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: -1 }[event.key];
    if (here < 0 || there === undefined) return;
    event.preventDefault();
    const tab = tabs.at(there % tabs.length);
    choose(tab);
    tab.focus();
  });
}

// A link to a folded section unfolds it.
const unfold = () => {
  const section = document.getElementById(window.location.hash.slice(1));
  if (section?.matches("details")) section.open = true;
};
window.addEventListener("hashchange", unfold);
unfold();

// Tables: a click on a column's head sorts by it, a second click the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];

  const keyOf = (row, column) => {
    const { number, text } = row.cells[column].dataset;
    return number === undefined ? text : Number(number);
  };
  const compare = (one, other) => (typeof one === "number" && typeof other === "number"
    ? one - other : String(one).localeCompare(String(other), "en", { numeric: true }));

  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("button")?.parentElement;
    const column = heads.indexOf(head);
    if (column < 0) return;
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const keyed = [...body.rows].map((row) => [keyOf(row, column), row]);
    // What is missing comes last, whichever way the others are sorted.
    keyed.sort(([one], [other]) => (one === undefined || other === undefined
      ? (one === undefined) - (other === undefined) : sign * compare(one, other)));
    body.append(...keyed.map(([, row]) => row));
    for (const each of heads) each.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  });
}
