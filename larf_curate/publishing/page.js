// The table of rows and the slider above it. Rows come as text in the page; nothing here writes markup.
const stops = JSON.parse(document.getElementById("stops").textContent);
const slider = document.getElementById("threshold");
const table = document.getElementById("rows");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const rows = [...body.rows].map((row) => ({
  row,
  score: row.dataset.score === undefined ? null : Number(row.dataset.score),
  outcome: row.cells[1].textContent,
  text: row.textContent.toLowerCase(),
}));
const whole = new Intl.NumberFormat("en");
const search = document.getElementById("search");
const size = document.getElementById("size");
const sortBy = document.getElementById("sort");
const state = { page: 0, column: null, descending: false };

const at = () => (slider ? Number(slider.value) : -1);
const asItWas = () => !slider || at() === stops.now;

function outcome({ score, outcome }) {
  if (score === null) return outcome;
  const threshold = slider ? stops.scores[at()] : Infinity;
  const now = asItWas() ? outcome : score > threshold ? "removed" : "kept";
  const near = now === "kept" && score >= threshold - stops.near ? ", just under the threshold" : "";
  return now + near + (now === outcome ? "" : ` (was ${outcome})`);
}

function tellThreshold() {
  if (!slider) return;
  const count = stops.removed[at()];
  // The threshold in use may need more digits than the other stops, to remove the same rows.
  const value = asItWas() && !stops.unchanged ? String(stops.scores[at()]) : stops.scores[at()].toFixed(stops.digits);
  const share = ((100 * count) / stops.scored).toFixed(1);
  const unsafe = stops.unsafe_above.length
    ? `; ${Math.round(100 * stops.unsafe_above[at()])}% of the unsafe references score above it`
    : "";
  document.getElementById("outcome").textContent =
    `above ${value}: ${whole.format(count)} of ${whole.format(stops.scored)} scored rows would be removed (${share}%)` +
    (asItWas() ? ", as they were" : "") + unsafe;
  if (stops.command) {
    document.getElementById("command").textContent = (asItWas() && stops.unchanged) || stops.command + value;
  }
}

function compare(first, second, column) {
  const [a, b] = [first, second].map(({ row }) => row.cells[column].dataset.order ?? row.cells[column].textContent);
  const numbers = [a, b].map((text) => (text.trim() === "" ? NaN : Number(text)));
  if (numbers.every((number) => !Number.isNaN(number))) return numbers[0] - numbers[1];
  return a < b ? -1 : a > b ? 1 : 0;
}

function draw() {
  const wanted = search.value.trim().toLowerCase();
  const found = rows.filter((row) => row.text.includes(wanted));
  if (state.column !== null) {
    const direction = state.descending ? -1 : 1;
    const empty = ({ row }) => (row.cells[state.column].dataset.order ?? row.cells[state.column].textContent).trim() === "";
    found.sort((a, b) => empty(a) - empty(b) || direction * compare(a, b, state.column)); // nothing comes last
  }
  const perPage = Number(size.value);
  const pages = Math.max(1, Math.ceil(found.length / perPage));
  state.page = Math.min(state.page, pages - 1);
  const shown = found.slice(state.page * perPage, (state.page + 1) * perPage);
  for (const entry of shown) {
    const text = outcome(entry);
    entry.row.cells[1].textContent = text;
    entry.row.classList.toggle("goes", text.startsWith("removed"));
  }
  body.replaceChildren(...shown.map(({ row }) => row));
  document.getElementById("info").textContent = found.length
    ? `${whole.format(state.page * perPage + 1)} to ${whole.format(state.page * perPage + shown.length)} of ${whole.format(found.length)} rows`
    : "no row has that text";
  document.getElementById("previous").disabled = state.page === 0;
  document.getElementById("next").disabled = state.page >= pages - 1;
  heads.forEach((head, column) => {
    head.setAttribute("aria-sort", column !== state.column ? "none" : state.descending ? "descending" : "ascending");
  });
  sortBy.value = state.column === null ? "" : `${state.column} ${state.descending ? "down" : "up"}`;
}

function sort(column, descending) {
  Object.assign(state, { column, descending, page: 0 });
  draw();
}

heads.forEach((head, column) => {
  const name = head.textContent;
  for (const [way, words] of [["down", "highest first"], ["up", "lowest first"]]) {
    sortBy.add(new Option(`${name}, ${words}`, `${column} ${way}`));
  }
  head.addEventListener("click", () => sort(column, state.column === column && !state.descending));
});
sortBy.addEventListener("change", () => {
  const [column, way] = sortBy.value.split(" ");
  sort(column === "" ? null : Number(column), way === "down");
});
search.addEventListener("input", () => { state.page = 0; draw(); });
size.addEventListener("change", () => { state.page = 0; draw(); });
document.getElementById("previous").addEventListener("click", () => { state.page -= 1; draw(); });
document.getElementById("next").addEventListener("click", () => { state.page += 1; draw(); });
for (const box of document.querySelectorAll("#columns input")) {
  const show = () => {
    const column = Number(box.value);
    for (const { cells } of [table.tHead.rows[0], ...rows.map(({ row }) => row)]) cells[column].hidden = !box.checked;
  };
  box.addEventListener("change", show);
  show();
}
if (slider) {
  slider.addEventListener("input", () => { tellThreshold(); draw(); });
  document.getElementById("copy")?.addEventListener("click", async (event) => {
    const command = document.getElementById("command");
    try {
      await navigator.clipboard.writeText(command.textContent);
      event.target.textContent = "copied";
      setTimeout(() => { event.target.textContent = "copy"; }, 1500);
    } catch {
      getSelection().selectAllChildren(command); // where a page may not write there, the text is marked instead
    }
  });
}
tellThreshold();
draw();
document.body.dataset.ready = "yes";
