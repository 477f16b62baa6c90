// Which groups are shown: pure functions of the data and of what was asked for.

const KEYS = ["q", "run", "when", "problem", "min", "max", "source", "verdict", "finish", "sort", "group", "tokens"];
const NOTHING_ASKED = Object.fromEntries(KEYS.map((key) => [key, ""]));

const VERDICTS = {
  positive: ["above 0", (found) => found !== undefined && found.value !== null && found.value > 0],
  zero: ["0 or below", (found) => found !== undefined && found.value !== null && found.value <= 0],
  none: ["not applicable", (found) => found === undefined || (found.value === null && found.failure === null)],
  failed: ["failed", (found) => found !== undefined && found.failure !== null],
};

const SORTS = {
  "": ["as sampled", null],
  best: ["highest reward", (group) => -mean(group)],
  worst: ["lowest reward", (group) => mean(group)],
  spread: ["largest differences", (group) => -(Math.max(...rewards(group)) - Math.min(...rewards(group)))],
  credit: ["largest credit", (group) => -Math.max(...group.responses.map((each) => Math.abs(each.credit ?? 0)))],
  long: ["longest", (group) => -Math.max(...group.responses.map((each) => each.tokens))],
};

function rewards(group) {
  const known = group.responses.map((each) => each.reward).filter((reward) => reward !== null);
  return known.length ? known : [0];
}

function mean(group) {
  const known = rewards(group);
  return known.reduce((sum, reward) => sum + reward, 0) / known.length;
}

/** Steps and evaluations are named `s3` and `e12`. */
function moment(group) {
  return `${group.training ? "s" : "e"}${group.step}`;
}

function momentName(group) {
  if (group.training) return `step ${group.step}`;
  return group.step === 0 ? "evaluation before" : `evaluation after step ${group.step}`;
}

/** Whether something is asked of single responses, not only of groups. */
function asksOfResponses(asked) {
  const ofVerdict = asked.source !== "" && asked.verdict !== "";
  return ofVerdict || [asked.q, asked.min, asked.max, asked.finish].some((value) => value !== "");
}

/** The groups with at least one response that fits, each with the numbers of those that do. */
function filtered(data, asked) {
  const query = asked.q.toLowerCase();
  const found = [];
  data.groups.forEach((group, index) => {
    if (!groupFits(data, group, asked)) return;
    const inPrompt = query !== "" && searchable(data.problems[group.problem]).includes(query);
    const fitting = group.responses.flatMap((each, at) => (responseFits(each, asked, query, inPrompt) ? [at] : []));
    if (fitting.length) found.push({ index, group, fitting: new Set(fitting) });
  });
  const key = (SORTS[asked.sort] || SORTS[""])[1];
  return key ? found.map((each) => [key(each.group), each]).sort((a, b) => a[0] - b[0]).map((pair) => pair[1]) : found;
}

function groupFits(data, group, asked) {
  if (asked.run !== "" && group.run !== Number(asked.run)) return false;
  if (asked.when === "train" && !group.training) return false;
  if (asked.when === "eval" && group.training) return false;
  if (asked.when === "trained" && (!group.training || group.dropped)) return false;
  if (asked.when === "dropped" && !group.dropped) return false;
  if (/^[se]\d+$/.test(asked.when) && moment(group) !== asked.when) return false;
  return asked.problem === "" || data.problems[group.problem].id.toLowerCase().includes(asked.problem.toLowerCase());
}

function responseFits(each, asked, query, inPrompt) {
  if (query && !inPrompt && !lower(each).includes(query)) return false;
  if (asked.min !== "" && !(each.reward !== null && each.reward >= Number(asked.min))) return false;
  if (asked.max !== "" && !(each.reward !== null && each.reward <= Number(asked.max))) return false;
  if (asked.finish && each.finish !== asked.finish) return false;
  return asked.source === "" || !VERDICTS[asked.verdict] || VERDICTS[asked.verdict][1](each.components[asked.source]);
}

function lower(response) {
  response.lower ??= response.text.toLowerCase();
  return response.lower;
}

function searchable(problem) {
  problem.lower ??= [...problem.messages.map((message) => message[1]), problem.answer].join("\n").toLowerCase();
  return problem.lower;
}

/** What is asked for, from and to the part of the address behind #. */
function readAsked(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const asked = { ...NOTHING_ASKED };
  for (const key of KEYS) if (given.has(key)) asked[key] = given.get(key);
  return asked;
}

function writeAsked(asked) {
  const said = Object.entries(asked).filter(([, value]) => value !== "");
  return new URLSearchParams(said).toString();
}
