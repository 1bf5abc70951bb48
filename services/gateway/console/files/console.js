// The console: what the gateway's own API says, for people. No library, no other host.
import { delta, parse, quantile, total } from "./prometheus.js";

const POLL_MS = 2000;
const element = (id) => document.getElementById(id);

/** The JSON of an answer; a problem (RFC 9457) is thrown as its detail. */
async function ask(path, { method = "GET", body } = {}) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  const answer = await fetch(path, { method, headers, body });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.detail ?? `${answer.status} ${answer.statusText}`);
  return said;
}

/** Fills a <dl> with names and values; text only, since values come from models and customers. */
function list(dl, entries) {
  dl.replaceChildren(...entries.map(([name, value]) => {
    const pair = document.createElement("div");
    for (const [tag, text] of [["dt", name], ["dd", value]]) {
      pair.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
    return pair;
  }));
}

// -- now -------------------------------------------------------------------------------------------

let earlier = null;
const ms = (seconds) => (seconds === null ? "–" : `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`);
const dollars = (cents) => (cents / 100).toLocaleString("en-US", { style: "currency", currency: "USD" });

async function showNow() {
  const found = parse(await (await fetch("metrics")).text());
  const now = { at: performance.now(), found };
  const since = earlier ? delta(found, earlier.found) : null;
  const seconds = earlier ? (now.at - earlier.at) / 1000 : null;
  earlier = now;
  const recent = (name, labels) => (since ? total(since, name, labels) : 0);
  const buckets = since?.get("retain_request_seconds_bucket") ?? [];
  const messages = ["bank", "model", "template"].map((source) => [
    `messages: ${source}`, total(found, "retain_contacts_total", { source }),
  ]);
  list(element("now"), [
    ["requests/s", seconds ? (recent("retain_decisions_total") / seconds).toFixed(1) : "–"],
    ["p50", ms(quantile(buckets, 0.5))],
    ["p95", ms(quantile(buckets, 0.95))],
    ["decisions", total(found, "retain_decisions_total")],
    ["contacts", total(found, "retain_contacts_total")],
    ...messages,
    ["messages blocked", total(found, "retain_messages_blocked_total")],
    ["reserved", dollars(total(found, "campaign_reserved_cents"))],
    ["budget", dollars(total(found, "campaign_budget_cents"))],
    ["opt-outs", total(found, "outcomes_total", { outcome: "opted_out" })],
    ["wait for Redis", total(found, "journal_waiting_records")],
    ["wait for Pub/Sub", total(found, "outbox_waiting_records")],
  ]);
}

// -- kill switch -----------------------------------------------------------------------------------

function showSwitch(found) {
  const reason = found.baseline_reason;
  const mode = element("mode");
  mode.textContent = reason ? `baseline: ${reason}` : "policy";
  mode.className = `pill ${reason ? "bad" : "good"}`;
  const state = found.state === "on" ? `on (${found.scope})` : found.state;
  const because = found.reason ? `, because: ${found.reason}` : "";
  element("switch-state").textContent = `The switch is ${state}${because}. Read ${Math.round(found.age_ms)} ms ago.`;
}

element("switch").addEventListener("submit", async (event) => {
  event.preventDefault();
  const to = event.submitter.value;
  const request = { state: to === "off" ? "off" : "on", reason: event.target.reason.value };
  if (to !== "off") request.scope = to;
  element("switch-problem").textContent = "";
  try {
    showSwitch(await ask("v1/kill-switch", { method: "PUT", body: JSON.stringify(request) }));
  } catch (problem) {
    element("switch-problem").textContent = problem.message;
  }
});

// -- a customer ------------------------------------------------------------------------------------

let decision = null;

async function showExample() {
  const { components } = await ask("openapi.json");
  const example = components.schemas.RetainRequest.example;
  example.request_id = crypto.randomUUID?.() ?? String(Date.now());
  element("try").body.value = JSON.stringify(example, null, 2);
}

function sentence({ decision: decided, mode, baseline_reason: reason }) {
  const by = reason ? `${mode} (${reason})` : mode;
  if (!decided.contact) return `Do not contact. Decided by: ${by}.`;
  return `Contact in ${decided.delay_hours} h by ${decided.channel} with ${decided.offer}. Decided by: ${by}.`;
}

element("try").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [button] = event.target.getElementsByTagName("button");
  button.disabled = true;
  element("try-problem").textContent = "";
  try {
    const answer = await ask("v1/retain", { method: "POST", body: event.target.body.value });
    decision = answer.decision_id;
    const { decision: decided, message, safety, latency_ms: latency } = answer;
    element("sentence").textContent = sentence(answer);
    const subject = message?.subject ? `${message.subject}\n\n` : "";
    element("message").textContent = message ? subject + message.text : "";
    element("message").hidden = !message;
    list(element("facts"), [
      ["risk", decided.risk?.toFixed(3) ?? "–"],
      ["expected value", decided.expected_value_usd === null ? "–" : dollars(decided.expected_value_usd * 100)],
      ["propensity", decided.propensity?.toFixed(3) ?? "–"],
      ["masked", Object.entries(decided.masked).map(([offer, why]) => `${offer}: ${why}`).join(", ") || "nothing"],
      ["message from", message ? [message.source, message.model].filter(Boolean).join(", ") : "–"],
      ["shield", safety.verdict + safety.findings.map((each) => ` · ${each.rule}`).join("")],
      ["took", Object.entries(latency).map(([step, took]) => `${step} ${took.toFixed(1)} ms`).join(", ")],
    ]);
    element("release").disabled = !decided.contact;
    showRaw(answer);
  } catch (problem) {
    element("try-problem").textContent = problem.message;
  } finally {
    button.disabled = false;
  }
});

function showRaw(found) {
  element("answer").hidden = false;
  element("raw").textContent = JSON.stringify(found, null, 2);
}

for (const [id, path, options] of [["record", "", {}], ["release", "/release", { method: "POST", body: "{}" }]]) {
  element(id).addEventListener("click", async () => {
    element("try-problem").textContent = "";
    try {
      showRaw(await ask(`v1/decisions/${encodeURIComponent(decision)}${path}`, options));
    } catch (problem) {
      element("try-problem").textContent = problem.message;
    }
  });
}

// -- what serves -----------------------------------------------------------------------------------

async function showModels() {
  const rows = [];
  for (const [service, kinds] of Object.entries(await ask("v1/models"))) {
    const found = Object.entries(kinds ?? {});
    for (const [kind, model] of found.length ? found : [["–", null]]) {
      const row = document.createElement("tr");
      for (const text of [service, kind, model?.version ?? "does not answer", model?.sha256?.slice(0, 12) ?? ""]) {
        row.append(Object.assign(document.createElement("td"), { textContent: text }));
      }
      rows.push(row);
    }
  }
  element("models").replaceChildren(...rows);
}

async function poll() {
  try {
    await Promise.all([showNow(), ask("v1/kill-switch").then(showSwitch), showModels()]);
  } catch (problem) {
    element("mode").textContent = "the gateway does not answer";
    element("mode").className = "pill bad";
  }
  setTimeout(poll, document.hidden ? 5 * POLL_MS : POLL_MS);
}

showExample();
poll();
