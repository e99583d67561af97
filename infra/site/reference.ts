/**
 * Reference pages, made from code, so that they cannot differ from it: errors, limits, settings, commands, metrics.
 * Each function returns Markdown.
 */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { environmentSchema } from "../../gpu-backend/config.ts";
import { createMetrics } from "../../gpu-backend/http/metrics.ts";
import { flagOf, helpOf } from "../../gpu-backend/settings.ts";
import { limitTable } from "../../shared/contracts/limits.ts";
import { errorTable } from "../../shared/errors.ts";
import { commandsOf } from "../commands.mjs";

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
  const rows = Object.values(limitTable).map(({ bounds, value, unit }) => [bounds, value.toLocaleString("en"), unit]);
  return `# Limits

A request beyond one is answered with an error that names the limit and the value. Limits of trained files are in the
[artifact format](/reference/artifacts#limits); limits of tenants are [theirs](/how-to/tenants).

${table(["what", "at most", "unit"], rows)}
`;
}

async function settings(): Promise<string> {
  const backend = [...helpOf(environmentSchema.shape)].map(([name, { help, range, preset, isSecret }]) => [
    `\`${name}\`${isSecret ? ", a secret" : ""}`,
    help,
    range,
    preset,
  ]);
  const edge = edgeSettings(await readFile(path.join(root, "wrangler.toml"), "utf8"));
  return `# Settings

## Backend

Each is a variable of its environment and, but for secrets, a flag of \`npm run backend\`: \`MAX_SEQUENCES=8\` is \`${flagOf("MAX_SEQUENCES")} 8\`, which goes
first.

${table(["variable", "what it is", "may be", "default"], backend)}

## Edge

Variables of the Worker, in \`wrangler.toml\`. Secrets are set by \`wrangler secret put\`.

${table(
  ["variable", "what it is", "default"],
  edge.map(({ name, help, preset }) => [`\`${name}\``, help, preset === "" ? "empty" : `\`${preset}\``]),
)}

Secrets: \`BACKEND_SECRETS\`, what calls to backends are signed with, the same as theirs; \`BACKEND_ACCESS_TOKEN\`, a service token of Cloudflare
Access for backends behind it; and \`OTEL_EXPORTER_OTLP_HEADERS\`, headers that the collector wants. Bindings that change the way to
backends (\`BACKEND_VPC\`, \`BACKEND_CERTIFICATE\`, \`CONTAINERS\`): [Deploy](/how-to/deploy#backends-in-a-private-network).
`;
}

/** The variables of wrangler.toml's first [vars], with the comment before each. Throws an Error for one without. */
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

async function commands(): Promise<string> {
  const entries = Object.entries(commandsOf(true)) as [string, [help: string, file: string, ...first: string[]]][];
  const texts: string[] = [];
  // Two at once: each is a process.
  const waiting = entries.values();
  const work = async () => {
    for (const [name, [help, file, ...first]] of waiting) {
      texts[entries.findIndex(([other]) => other === name)] =
        `## ${name}\n\n${sentence(help)}\n\n\`\`\`text\n${await helpText(name, file, first)}\n\`\`\``;
    }
  };
  await Promise.all([work(), work()]);
  return `# Commands

\`npm run COMMAND -- ARGUMENTS\` in a checkout, \`chameleon COMMAND ARGUMENTS\` from an installed package. Exit codes: 0 done, 1 failed, 2 bad
usage, 130 interrupted; some commands have more.

${texts.join("\n\n")}
`;
}

/** Those that take no arguments of their own have no help either. */
const withoutHelp = new Set(["test", "check", "build"]);

async function helpText(name: string, file: string, first: readonly string[]): Promise<string> {
  if (withoutHelp.has(name)) return `npm run ${name}`;
  const { stdout } = await promisify(execFile)(process.execPath, [path.join(root, file), ...first, "--help"]);
  return stdout.trim();
}

async function metrics(): Promise<string> {
  const view = { stats: () => [], manifests: () => ({ all: [], first: null }), memory: { limitBytes: 0, parts: {} } };
  const text = await createMetrics(view as unknown as Parameters<typeof createMetrics>[0]).text();
  const types = new Map([...text.matchAll(/^# TYPE (\S+) (\w+)$/gm)].map(([, name, type]) => [name, type]));
  const rows = [...text.matchAll(/^# HELP (\S+) (.*)$/gm)].map(([, name, help]) => [
    `\`${name}\``,
    types.get(name) ?? "",
    help,
  ]);
  return `# Metrics

What a backend tells Prometheus at \`/metrics\`. Names that begin with \`vllm:\` mean what vLLM's do.

${table(["metric", "type", "what it is"], rows)}
`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function sentence(text: string): string {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}
