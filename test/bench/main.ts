/**
 * The benchmark: our engine beside node-llama-cpp on one GGUF file, resident memory of serving, classifiers of many tenants, time of own
 * adapters, an open-loop load, or a GPU.
 * Run: npm run bench -- --help
 */
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { cpus, loadavg, totalmem } from "node:os";
import { join } from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { count, createCommand, parsedOptions } from "../../gpu-backend/command-line.ts";
import { readConfig } from "../../gpu-backend/config.ts";
import { embeddedBase } from "../support/embedded-base.ts";
import { measureClassifiers } from "./classifiers.ts";
import { runGroup, skippedLine } from "./contest.ts";
import type { Entry } from "./contestant.ts";
import { measureDevice } from "./device.ts";
import { measureFits } from "./fits.ts";
import { compareLoad, measureLoad } from "./load/measure.ts";
import { installPeer, pinsOf } from "./peer-package.ts";
import { loadedLines, ratioLines, tableLines, textLines } from "./report.ts";
import { benchTexts } from "./texts.ts";

const llamaFolder = join(import.meta.dirname, "llama");
const embeddedGguf = join(embeddedBase, "model.gguf");
const contexts = [136, 264];

const options = parsedOptions<{
  json?: string;
  threads?: number;
  rounds: number;
  batches: number[];
  gguf: string;
  memory?: boolean;
  classifiers?: number;
  fits?: boolean;
  load?: number[];
  requests: number;
  against?: string;
  device?: "webgpu" | "software";
  quick?: boolean;
}>(
  createCommand("bench", "our engine beside node-llama-cpp on one GGUF file", ["chameleon bench"])
    .addOption(new Option("--gguf <file>", "the model, also in parts").default(embeddedGguf, "the embedded one"))
    .option("--json <file>", "write the figures there")
    .option("--threads <n>", "threads of each contestant (1; with --load the server's default, all cores)", count)
    .option("--rounds <n>", "rounds over which medians are taken", count, 5)
    .option("--batches <list>", "batch sizes", counts, [1, 8])
    .option("--memory", "measure what the backend adds to the memory of its session, instead")
    .option(
      "--classifiers <n>",
      "put so many tenants' classifiers into one batch, beside a session for each, instead",
      count,
    )
    .option("--fits", "measure how soon own adapters of examples are ready, beside prefilling the examples, instead")
    .option("--load <rates>", "put a mixed open-loop load of so many requests a second on our engine, instead", rates)
    .option("--requests <n>", "requests of the load", count, 100)
    .option("--against <folder>", "with --load: our engine beside that of another checkout, alternated")
    .addOption(
      new Option("--device <device>", "measure a GPU, or an adapter in software, beside its floors, instead").choices([
        ...["webgpu", "software"],
      ]),
    )
    .option("--quick", "with --device: a small base and small batches"),
);

const threads = options.threads ?? (options.load ? readConfig({}).threads : 1);
const loadAtStart = loadavg();
const say = (line: string) => console.log(line);
const note = (line: string) => process.stderr.write(`${line}\n`);
const figures = options.memory
  ? await benchMemory()
  : options.classifiers
    ? await measureClassifiers(options.classifiers, { threads, rounds: options.rounds, say })
    : options.fits
      ? await measureFits({ threads, rounds: options.rounds, say })
      : options.load !== undefined
        ? await benchLoad(options.load)
        : options.device
          ? await measureDevice({
              ...{ device: options.device, quick: options.quick ?? false },
              threads,
              llamaFolder,
              say,
              note,
            })
          : await benchContest();
if (options.json) {
  const machine = {
    cpu: cpus()[0].model,
    cores: cpus().length,
    memoryBytes: totalmem(),
    threads,
    glibcTunables: process.env.GLIBC_TUNABLES ?? null,
    loadAverage: { start: loadAtStart, end: loadavg() },
  };
  await writeFile(options.json, `${JSON.stringify({ ...figures, machine, versions: versions() }, null, 2)}\n`);
}

/** node-llama-cpp computes in the file's own format. */
async function benchContest() {
  const { gguf, rounds, batches } = options;
  const cells = contexts.flatMap((context) => batches.map((batch) => ({ batch, context, steps: 8 })));
  const peer: Entry = { system: "node-llama-cpp", format: "gguf" };
  const entries: Entry[] = [{ system: "chameleon", format: "int8" }, peer, { system: "chameleon", format: "exact" }];
  installPeer(llamaFolder);
  const texts = gguf === embeddedGguf ? await benchTexts() : [];
  const result = await runGroup(entries, cells, { rounds, threads, gguf, texts, note });
  for (const line of tableLines(result.rows)) say(line);
  for (const cell of result.skipped) say(skippedLine(cell));
  for (const line of loadedLines(result)) say(line);
  for (const line of ratioLines(entries, result.rows)) say(line);
  for (const line of textLines(result.texts)) say(line);
  return { rows: result.rows, texts: result.texts, loaded: result.loaded, skipped: result.skipped };
}

async function benchMemory() {
  installPeer(llamaFolder);
  // Imported here because it needs development packages, which an installed package lacks.
  const { measureMemory, memoryLines } = await import("./memory.ts");
  const memory = [];
  for (const batch of options.batches) {
    const row = await measureMemory("int8", batch, { threads, note });
    for (const line of memoryLines(row)) say(line);
    memory.push(row);
  }
  return { memory };
}

async function benchLoad(rates: number[]) {
  const { requests, rounds, against } = options;
  const settings = { format: "int8" as const, threads, requests, rates };
  if (against !== undefined) return compareLoad(against, { ...settings, rounds }, say);
  return measureLoad(settings, say);
}

function versions(): Record<string, string> {
  const root = JSON.parse(readFileSync(join(import.meta.dirname, "../../package.json"), "utf8"));
  return {
    node: process.versions.node,
    [root.name]: root.version,
    "onnxruntime-node": createRequire(import.meta.url)("onnxruntime-node/package.json").version,
    ...pinsOf(llamaFolder),
  };
}

function rates(text: string): number[] {
  const values = text.split(",").map(Number);
  if (!values.every((value) => value > 0)) throw new InvalidArgumentError("must be numbers above 0");
  return values;
}

function counts(text: string): number[] {
  return text.split(",").map(count);
}
