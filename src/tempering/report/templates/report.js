"use strict";
// Sorts tables, and shows prices in one currency or at another threshold. All that it shows is in the page already: it turns no text
// into markup, keeps nothing and asks nobody for anything. Without it the page shows the study as it was asked for, in every currency.
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Sorting. A cell's number is its data-value: text such as "> 5" or "1.2 GFLOP" has no order of its own.

  const collator = new Intl.Collator("en", { numeric: true });
  const places = new WeakMap(); // each row's place as the page was written
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  const isHead = (row) => row.querySelector("th.group") !== null;
  const isFoot = (row) => row.classList.contains("control"); // the control of a comparison stays below the defences

  function comparer(rows, column, direction) {
    const sign = direction === "descending" ? -1 : 1;
    const cell = (row) => row.cells[column];
    if (rows.some((row) => cell(row).dataset.value !== undefined)) {
      const value = (row) => Number(cell(row).dataset.value ?? NaN);
      return (one, other) => {
        const [left, right] = [value(one), value(other)];
        if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right); // what is missing stays last
        return left === right ? 0 : sign * (left < right ? -1 : 1); // not a difference: ∞ − ∞ is no number
      };
    }
    const text = (row) => [...cell(row).childNodes].map((node) => (node.ariaHidden === "true" ? "" : node.textContent)).join("").trim(); // no glyphs
    return (one, other) => {
      const [left, right] = [text(one), text(other)];
      return left === "" || right === "" ? (left === "") - (right === "") : sign * collator.compare(left, right);
    };
  }

  function arrange(table) {
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.findIndex((head) => (head.getAttribute("aria-sort") ?? "none") !== "none");
    for (const body of table.tBodies) {
      const rows = [...body.rows];
      rows.forEach((row, place) => places.has(row) || places.set(row, place));
      const movable = rows.filter((row) => !isHead(row) && !isFoot(row));
      const order =
        column < 0
          ? (one, other) => places.get(one) - places.get(other)
          : comparer(movable, column, heads[column].getAttribute("aria-sort"));
      body.append(...rows.filter(isHead), ...movable.sort(order), ...rows.filter(isFoot));
    }
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const next = NEXT[head.getAttribute("aria-sort")];
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", next);
        arrange(table);
      });
    }
    arrange(table);
  }

  // Currency. Time and dollars are compute times a constant, so that a figure drawn in one of them stands for the others.

  const currencies = document.querySelector("#currency");
  const PROPORTIONAL = ["flops", "usd", "gpu_hours"];
  const titleOf = (name) => [...currencies.options].find((option) => option.value === name)?.text ?? name;

  function showCurrency() {
    const chosen = currencies.value;
    for (const table of all("table.sortable")) {
      const heads = table.tHead.rows[0].cells;
      [...heads].forEach((head) => head.classList.remove("chosen"));
      for (const cell of all("td[data-currency]", table)) {
        const is = cell.dataset.currency === chosen;
        cell.classList.toggle("chosen", is);
        if (is) heads[cell.cellIndex].classList.add("chosen");
      }
    }
    all("figure").forEach((figure) => showPanels(figure, chosen));
  }

  function showPanels(figure, chosen) {
    const panels = all("[data-panel]", figure);
    if (!panels.length) return;
    const drawn = panels.map((panel) => panel.dataset.panel);
    const stand = PROPORTIONAL.includes(chosen) ? PROPORTIONAL.find((name) => drawn.includes(name)) : undefined;
    const shown = drawn.includes(chosen) ? chosen : stand;
    for (const panel of panels) {
      const extra = panel.classList.contains("extra");
      panel.classList.toggle("off", shown === undefined ? extra : panel.dataset.panel !== shown);
    }
    panels[0].parentElement.classList.toggle("alone", all("[data-panel]:not(.off)", figure).length === 1);
    const note = figure.querySelector(".drawn");
    note.hidden = chosen === "" || shown === chosen;
    note.textContent = note.hidden
      ? ""
      : stand
        ? `Drawn in ${titleOf(stand)}, to which ${titleOf(chosen)} is proportional.`
        : `Not drawn in ${titleOf(chosen)}.`;
  }

  // Threshold. Each other one has a template; what it holds takes the place of the part of the page with the same name.

  const thresholds = document.querySelector("#tau");
  const own = new Map(); // what the page came with

  const parts = (element) => (element.tagName === "TABLE" ? [...element.tBodies] : [...element.childNodes]);

  function showThreshold() {
    const option = thresholds.selectedOptions[0];
    const isOwn = "own" in option.dataset;
    const template = all("template[data-tau]").find((candidate) => candidate.dataset.tau === option.value);
    for (const target of all("[data-view]")) {
      if (!own.has(target)) own.set(target, parts(target));
      const source = isOwn ? null : all("[data-view]", template.content).find((part) => part.dataset.view === target.dataset.view);
      const next = source ? parts(document.importNode(source, true)) : own.get(target);
      const open = all("details", target).map((each) => each.open);
      parts(target).forEach((part) => part.remove());
      target.append(...next);
      all("details", target).forEach((each, place) => (each.open = open[place] ?? false));
    }
    all(".tau").forEach((word) => word.replaceChildren(option.value));
    root.classList.toggle("other-tau", !isOwn);
    all("[data-view] table.sortable").filter((table) => !table.querySelector("button.sort")).forEach(makeSortable);
    all("table.sortable[data-view]").forEach(arrange);
    showCurrency();
  }

  all("table.sortable").forEach(makeSortable);
  currencies.addEventListener("change", showCurrency);
  thresholds?.addEventListener("change", showThreshold);
  all(".back").forEach((button) =>
    button.addEventListener("click", () => {
      thresholds.value = [...thresholds.options].find((option) => "own" in option.dataset).value;
      showThreshold();
      thresholds.focus(); // the button has gone
    }),
  );
  document.querySelector(".switches").hidden = false;
  root.classList.add("scripted");
})();
