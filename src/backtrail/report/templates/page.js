const element = (tag, text, attributes = {}) => Object.assign(document.createElement(tag), { textContent: text }, attributes);

// The picture's bytes are in the page once: its download takes them from the picture.
for (const link of document.querySelectorAll("a[data-picture]")) link.href = document.querySelector(`#${link.dataset.picture} img`).src;

// A number's window: all its digits, its seeds, its protocol, and its chain. Escape closes it and the focus goes back to the number.
const window_of = document.getElementById("chain-window");
const told = (list, name, text) => { if (text) list.append(element("dt", name), element("dd", text)); };
const protocol_of = (metric) => {
  const row = metric && document.getElementById(`protocol-${metric}`)?.closest("tr");
  if (!row) return "";
  const heads = row.closest("table").tHead.rows[0].cells;
  return [...row.cells].slice(1).map((cell, i) => `${heads[i + 1].textContent.trim()} ${cell.textContent.trim()}`).join(", ").replaceAll(/\b([0-9a-f]{12})[0-9a-f]{52}\b/g, "$1");
};
const show = (link) => {
  const { name, exact, seeds, metric } = link.dataset;
  const list = element("dl", "");
  told(list, "Seeds", seeds);
  told(list, "Protocol", protocol_of(metric));
  told(list, "Commit, machine, time", "they differ from run to run and stand in the records; ask for them:");
  list.lastChild?.append(element("br", ""), element("code", `backtrail why '${name}'`));
  const tree = document.getElementById(link.hash.slice(1)).cloneNode(true);
  tree.removeAttribute("id");
  window_of.querySelector("h2").textContent = name;
  window_of.querySelector(".inside").replaceChildren(...(exact ? [element("p", exact, { className: "exact" })] : []), list, element("h3", "Made from"), tree);
  window_of.showModal();
  window_of.scrollTop = 0;
};
document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link) return;
  if (link.dataset.name && link.hash && window_of.showModal) {
    event.preventDefault();
    show(link);
  } else if (window_of.contains(link)) {
    window_of.close();
  }
});
window_of.addEventListener("click", (event) => { if (event.target === window_of) window_of.close(); });

// Two series side by side: seeds and suites that are in the page, or the results.csv of another run from this computer.
const compared = JSON.parse(document.getElementById("values").textContent);
const [first, second, metric] = ["first", "second", "metric"].map((name) => document.getElementById(`compare-${name}`));
const digits = (x) => x === undefined ? "–" : Number(x.toPrecision(4)).toString();
// A value of this page keeps the link that it has in the tables above, found by its first six digits.
const six = (x) => Number(x).toPrecision(6);
const links = new Map([...document.querySelectorAll("td a[data-name]")].map((link) => [six(link.dataset.exact ?? link.textContent), link]));
const linked = (x) => {
  const cell = element("td", "", { className: "num" }), link = links.get(six(x));
  cell.append(link ? Object.assign(link.cloneNode(false), { textContent: digits(x) }) : digits(x));
  return cell;
};
const compare = () => {
  const [a, b] = [first, second].map((select) => compared.series[select.value].rows);
  const rows = Object.keys(a).filter((row) => row in b && metric.value in a[row] && metric.value in b[row]).map((row) => {
    const [x, y] = [a[row][metric.value], b[row][metric.value]];
    const line = element("tr", "");
    const derived = [digits(y - x), x ? digits(y / x) : "–"].map((text) => element("td", text, { className: "num" }));
    line.append(element("td", row), linked(x), linked(y), ...derived);
    return line;
  });
  const table = document.getElementById("compared");
  table.tBodies[0].replaceChildren(...rows);
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  document.getElementById("compare-note").textContent = rows.length ? `${rows.length} rows that both have` : "They have no row in common in this metric.";
};
const offer = () => {
  const chosen = [first.value, second.value];
  for (const select of [first, second]) select.replaceChildren(...compared.series.map((one, i) => element("option", one.name, { value: i })));
  first.value = chosen[0] || 0;
  second.value = chosen[1] || Math.min(1, compared.series.length - 1);
};
const fields = (line) => [...line.matchAll(/("(?:[^"]|"")*"|[^,]*)(?:,|$)/g)].map((match) => match[1].replace(/^"|"$/g, "").replaceAll('""', '"')).slice(0, -1);
const read_results = (name, text) => {
  const [head, ...lines] = text.trim().split(/\r?\n/), names = [...fields(`${head},`)], rows = {};
  for (const line of lines) {
    const cell = Object.fromEntries(fields(`${line},`).map((text, i) => [names[i], text]));
    const guidance = cell.guidance === undefined || Number(cell.guidance) === 1 ? "" : `, guidance ${Number(cell.guidance)}`;
    const label = compared.labels[cell.method] ?? cell.method;
    const values = names.filter((column) => column.endsWith("_mean") && cell[column]).map((column) => [column.slice(0, -5), Number(cell[column])]);
    rows[`${label}, NFE ${cell.nfe}${guidance}${cell.trained === "False" ? " (untrained)" : ""}`] = Object.fromEntries(values);
  }
  return { name, rows };
};
for (const [key, text] of Object.entries(compared.metrics)) metric.append(element("option", text, { value: key }));
metric.value = compared.metric;
offer();
for (const select of [first, second, metric]) select.addEventListener("change", compare);
document.getElementById("compare-file").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  const found = read_results(file.name, await file.text());
  if (!Object.keys(found.rows).length || !Object.values(found.rows).some((row) => Object.keys(row).length)) {
    document.getElementById("compare-note").textContent = `${file.name} is no results.csv: it has no columns method, nfe and METRIC_mean.`;
    return;
  }
  compared.series.push(found);
  offer();
  second.value = compared.series.length - 1;
  compare();
});
document.getElementById("section-compare").closest("section").hidden = false;
for (const item of document.querySelectorAll("nav .scripted")) item.hidden = false;
compare();
