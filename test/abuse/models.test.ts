/**
 * Attack: untrusted models: chat templates that loop, double strings or nest, numbers in config.json that cost memory, head counts that do
 * not divide the hidden size. An import must end within its memory and name the fault. A served model must refuse the conversation, answer
 * others meanwhile, and stay small.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cp, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { text } from "node:stream/consumers";
import { describe, expect, test } from "vitest";
import { manifestFile } from "../../shared/artifacts/manifest.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { startBackend } from "../support/backend-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { writeTinyModel } from "../support/tiny-model.ts";
import { startAttacked } from "./edge.ts";
import { megabytes, mostGrowthBytes, residentBytes } from "./measurements.ts";

const importCli = path.join(import.meta.dirname, "../../gpu-backend/models/import/cli.ts");
/** Timeout of an import in milliseconds, far above the time of a tiny model on a busy machine. */
const importMs = 30_000;
/** Heap limit of an import, so that an unbounded one does not exhaust the machine. */
const importHeapMegabytes = 1024;

const folder = temporaryFolder();
const original = path.join(folder, "original");
await writeTinyModel(original);

/** Copies the tiny model without its artifacts, and adds a chat template or changes its config.json. */
async function modelWith(name: string, change: { template?: string; config?: object }): Promise<string> {
  const copy = path.join(folder, name.replaceAll(/\W/g, "-"));
  await cp(original, copy, { recursive: true, filter: (source) => !source.endsWith("artifacts") });
  if (change.template) {
    const config = { chat_template: change.template };
    await writeFile(path.join(copy, "tokenizer_config.json"), JSON.stringify(config));
  }
  const configFile = path.join(copy, "config.json");
  const config = JSON.parse(await readFile(configFile, "utf8"));
  await writeFile(configFile, JSON.stringify({ ...config, ...change.config }));
  return copy;
}

async function importOf(model: string): Promise<{ code: number | null; signal: string | null; stderr: string }> {
  const child = spawn(process.execPath, [`--max-old-space-size=${importHeapMegabytes}`, importCli, model], {
    stdio: ["ignore", "ignore", "pipe"],
    timeout: importMs,
    killSignal: "SIGKILL",
  });
  const [stderr, [code, signal]] = await Promise.all([text(child.stderr), once(child, "close")]);
  return { code, signal, stderr };
}

const loop = "{% for i in range(1000) %}";
const end = "{% endfor %}";
const bigRange = `{% for i in range(2000000000) %}${end}`;
const nestedLoops = `${loop.repeat(4)}x${end.repeat(4)}`;
/** A template that holds 150 strings of 8 MB. */
const heldStrings = `{% set ns = namespace(s="ab", l=[]) %}{% for i in range(22) %}{% set ns.s = ns.s + ns.s %}${end}{% for i in range(150) %}{% set ns.l = ns.l + [ns.s | upper] %}${end}`;
const longOutput = `{% set ns = namespace(s="ab") %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}${end}{{ ns.s }}`;
const said = "{% for m in messages %}{{ m.content }}{% endfor %}";
const templates: [name: string, template: string][] = [
  ["a range of two thousand million", `${bigRange}${said}`],
  ["doubled strings", `${heldStrings}${said}`],
  ["an output without end", longOutput],
  ["nested loops", `${nestedLoops}${said}`],
  ["nested loops in a conversation of several turns", `{% if messages | length > 2 %}${nestedLoops}{% endif %}${said}`],
];

const refused: [name: string, change: Parameters<typeof modelWith>[1], names: RegExp][] = [
  ...templates.map(([name, template]): (typeof refused)[number] => [
    `a chat template with ${name}`,
    { template },
    /chat.template/i,
  ]),
  ["10⁹ layers in config.json", { config: { n_layer: 1_000_000_000 } }, /n_layer.*1000000000/],
  ["heads that do not divide in config.json", { config: { n_head: 7 } }, /n_head.*7/],
  ["10⁹ positions in config.json", { config: { n_positions: 1_000_000_000 } }, /1000000000/],
];
test.concurrent.for(refused)("the import refuses by name: %s", async ([name, change, names], { expect }) => {
  const { code, signal, stderr } = await importOf(await modelWith(name, change));
  console.log(`${name}: exit ${code ?? signal}: ${stderr.trim().slice(-200)}`);
  expect([code, signal]).toEqual([1, null]);
  expect(stderr).toMatch(names);
  expect(stderr.trim().split("\n").at(-1)!.length).toBeLessThan(400);
});

test("a backend refuses heads that do not divide at its start, by name", async () => {
  const model = await modelWith("served heads", { config: { n_head: 7 } });
  await cp(path.join(original, "artifacts"), path.join(model, "artifacts"), { recursive: true });
  const starting = startBackend({ MODEL_DIR: model, THREADS: "1" }).then(stopAtEnd);
  await expect(starting).rejects.toThrow(/exit 1: .*n_head.*7/);
});

describe("a served model whose chat template", async () => {
  /** [name, template]. The model runs a template only if the first message is its name, so the import's trial conversations run none. */
  const attacks: [name: string, attack: string][] = [
    ["writes without end", longOutput],
    ["holds doubled strings", heldStrings],
    ["asks for a range of two thousand million", bigRange],
    ["nests loops", nestedLoops],
  ];
  /** Timeout for an edge that hangs, in milliseconds. */
  const patienceMs = 15_000;
  const model = path.join(folder, "served");
  await cp(original, model, { recursive: true });
  const file = path.join(model, "artifacts", manifestFile);
  const manifest = JSON.parse(await readFile(file, "utf8"));
  const branches = attacks.map(([name, attack]) => `{% if messages[0].content == "${name}" %}${attack}{% endif %}`);
  manifest.model.chatTemplate = branches.join("") + said;
  await writeFile(file, JSON.stringify(manifest));
  const { edge } = await startAttacked({ attacker: {}, quiet: {} }, { MODEL_DIR: model });

  test.each(attacks)("%s refuses that conversation, serves others and stays small", async (name) => {
    const { post, pid } = edge;
    const chat = async (tenant: string, content: string) => {
      const body = { messages: [{ role: "user", content }], max_tokens: 2 };
      const answer = post("/v1/chat/completions", tenant, body).then(
        ({ status }) => status,
        (error) => String(error),
      );
      const late = new Promise<string>((resolve) => setTimeout(resolve, patienceMs, "no answer").unref());
      return Promise.race([answer, late]);
    };
    expect(await chat("quiet", "hello")).toBe(200);
    const beforeBytes = residentBytes(pid);
    const attacked = Promise.all(Array.from({ length: 4 }, () => chat("attacker", name)));
    expect(await chat("quiet", "hello")).toBe(200);
    expect(await attacked).toEqual([400, 400, 400, 400]);
    expect(await chat("quiet", "hello")).toBe(200);
    const grownBytes = residentBytes(pid) - beforeBytes;
    console.log(`${name}: edge grew by ${megabytes(grownBytes)}`);
    expect(grownBytes).toBeLessThanOrEqual(mostGrowthBytes);
  });
});
