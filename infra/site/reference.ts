/** Reference pages in Markdown, made from the code. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { edgeMetricHelp } from "../../edge/platform/edge-metrics.ts";
import { environmentSchema } from "../../gpu-backend/config.ts";
import { createMetrics } from "../../gpu-backend/http/metrics.ts";
import { flagOf, helpOf } from "../../gpu-backend/settings.ts";
import { limitTable } from "../../shared/contracts/limits.ts";
import { errorTable } from "../../shared/errors.ts";
import { commandsOf } from "../commands.mjs";
import { anchorOf } from "./anchors.mjs";

const root = path.join(import.meta.dirname, "../..");

export type ReferencePage = "errors" | "limits" | "settings" | "commands" | "metrics";

export const referencePages: Record<ReferencePage, () => string | Promise<string>> = {
  errors,
  limits,
  settings,
  commands,
  metrics,
};

function errors(): string {
  const rows = Object.entries(errorTable).map(([kind, { status, type, code }]) => [
    `\`${code ?? kind}\``,
    String(status),
    `\`${type}\``,
  ]);
  return `# Errors

Errors have OpenAI's envelope: \`{"error": {"message", "type", "param", "code"}}\`. The message names the limit and the value. What to do about some of them is in
[Troubleshoot](/how-to/troubleshoot).

${table(["code", "status", "type"], rows)}
`;
}

function limits(): string {
  const rows = Object.values(limitTable).map(([value, unit, bounds]) => [bounds, value.toLocaleString("en"), unit]);
  return `# Limits

A request beyond one is answered with an error that names the limit and the value. Limits of trained files are in the
[artifact format](/reference/artifacts#limits); a tenant's limits are [its plan's](/how-to/tenants#limits).

${table(["what", "at most", "unit"], rows)}
`;
}

async function settings(): Promise<string> {
  const backend = [...helpOf(environmentSchema.shape)].map(([name, { help, range, preset, isSecret }]) => [
    `\`${name}\`${isSecret ? ", a secret" : ""}`,
    preset,
    `${help}. May be ${range}.`,
  ]);
  const edge = edgeSettings(await readFile(path.join(root, "wrangler.toml"), "utf8"));
  const bindings = edgeBindings(await readFile(path.join(root, "edge/config.ts"), "utf8"));
  return `# Settings

## Backend

Each is a variable of its environment and, but for secrets, a flag of \`npm run backend\`: \`MAX_SEQUENCES=8\` is \`${flagOf("MAX_SEQUENCES")} 8\`, which goes
first. Secrets are variables only, because other users of a machine see command lines.

${table(["variable", "default", "what it is"], backend)}

## Edge

Variables of the Worker, in \`wrangler.toml\`.

${table(
  ["variable", "default", "what it is"],
  edge.map(({ name, help, preset }) => [`\`${name}\``, preset === "" ? "empty" : `\`${preset}\``, help]),
)}

Its secrets, set by \`wrangler secret put\`, and the bindings that change the way to backends ([Deploy](/how-to/deploy#backends-in-a-private-network)):

${table(
  ["secret or binding", "what it is"],
  bindings
    .filter(({ name }) => !edge.some((variable) => variable.name === name))
    .map(({ name, help }) => [`\`${name}\``, help]),
)}

Variables of the other commands are in their [help](/reference/commands).
`;
}

/** Returns the variables in wrangler.toml's first [vars], with the comments before them. Throws an Error for a variable without one. */
export function edgeSettings(toml: string): { name: string; help: string; preset: string }[] {
  const [, vars] = toml.split(/^\[vars\]$/m);
  if (vars === undefined) throw new Error("wrangler.toml has no [vars]");
  const [section] = vars.split(/^\[/m);
  return [...section.matchAll(/((?:^#.*\n)*)^([A-Z_]+) = "(.*)"$/gm)].map(([, comment, name, preset]) => {
    const help = comment.replaceAll(/^# ?/gm, "").trim().replaceAll("\n", " ").replaceAll("|", "\\|");
    if (help === "") throw new Error(`wrangler.toml says nothing of ${name}`);
    return { name, help, preset };
  });
}

/** Returns the fields of `Variables` in edge/config.ts, with the comments before them. */
export function edgeBindings(code: string): { name: string; help: string }[] {
  const [, body] = /^export interface Variables \{\n(.*?)^\}/ms.exec(code) ?? [];
  if (body === undefined) throw new Error("edge/config.ts has no interface Variables");
  return [...body.matchAll(/(?:^ {2}\/\*\* (.*) \*\/\n)?^ {2}([A-Z_]+)\??:/gm)].map(([, help = "", name]) => ({
    name,
    help,
  }));
}

async function commands(): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [path.join(import.meta.dirname, "programs.ts")]);
  const helps: Record<string, string[]> = JSON.parse(stdout);
  const texts = Object.entries(commandsOf(true)).map(([name, [help]]) => {
    const own = (helps[name] ?? [`npm run ${name}`]).map((text) => `\`\`\`text\n${text}\n\`\`\``);
    return `## ${name}\n\n${help[0].toUpperCase()}${help.slice(1)}.\n\n${own.join("\n\n")}`;
  });
  return `# Commands

\`npm run COMMAND -- ARGUMENTS\` in a checkout, \`chameleon COMMAND ARGUMENTS\` from an installed package. Installed, \`chameleon start\` serves from any folder, and
keeps its state there in \`.chameleon/\` and \`.cache/\`. Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted; some commands have more.

${Object.keys(commandsOf(true))
  .map((name) => `[${name}](#${anchorOf(name)})`)
  .join(", ")}

${texts.join("\n\n")}
`;
}

async function metrics(): Promise<string> {
  const empty = () => ({ fault: null, failures: 0, unwrittenBytes: 0, files: 0, bytes: 0 });
  const text = await createMetrics({
    stats: () => [],
    manifests: () => ({ all: [], first: null }),
    device: { name: "cpu", adapter: null, driver: null, selfTest: "none", found: "" },
    memory: { limitBytes: 0, parts: {} },
    disk: { adapter: empty, memory: empty },
  }).text();
  const types = new Map([...text.matchAll(/^# TYPE (\S+) (\w+)$/gm)].map(([, name, type]) => [name, type]));
  const rows = [...text.matchAll(/^# HELP (\S+) (.*)$/gm)].map(([, name, help]) => [
    `\`${name}\``,
    types.get(name) ?? "",
    help,
  ]);
  return `# Metrics

## Backend

What a backend tells Prometheus at \`/metrics\`. Names that begin with \`vllm:\` mean what vLLM's do.

${table(["metric", "type", "what it is"], rows)}

## Edge

What the Worker reports over OTLP, where \`OTEL_EXPORTER_OTLP_ENDPOINT\` names a collector. Prometheus shows dots as underscores, and a unit or \`_total\` at the end.

${table(
  ["metric", "what it is"],
  Object.entries(edgeMetricHelp).map(([name, help]) => [`\`${name}\``, help]),
)}
`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}
