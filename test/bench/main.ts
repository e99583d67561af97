/**
 * The benchmark: our engine beside Transformers.js and node-llama-cpp on one model, GPT-2 124M's shape with random
 * weights. Prints the bandwidth floor, the table and the ratios; `--json FILE` keeps the figures.
 * Run: npm run bench -- --help
 */
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { cpus, loadavg, totalmem } from "node:os";
import { join } from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { count, createCommand, parsedOptions } from "../../gpu-backend/command-line.ts";
import { readConfig } from "../../gpu-backend/config.ts";
import { weightFormats } from "../../gpu-backend/runtime/products.ts";
import { adapterLine, measureAdapters } from "./adapters.ts";
import { readBandwidth } from "./bandwidth.ts";
import { type GroupResult, runGroup, skippedLine } from "./contest.ts";
import type { Cell, Entry } from "./contestant.ts";
import { measureDocuments } from "./documents.ts";
import { type KernelFloor, kernelFormats, kernelLine, measureKernels } from "./kernels.ts";
import { type LoadShape, loadShapes } from "./load/engine.ts";
import { compareLoad, measureLoad } from "./load/measure.ts";
import { measureMixture, mixtureLine } from "./mixture.ts";
import { installPeer, pinsOf } from "./peer-package.ts";
import { measurePrefix, prefixLine } from "./prefix.ts";
import {
  agreementLines,
  type Floor,
  floorLine,
  floorRatioLines,
  peerLines,
  ratioLines,
  tableLines,
  weightBytesOf,
} from "./report.ts";

/** The peer that the root's packages do not have. */
const llamaFolder = join(import.meta.dirname, "llama");

/** Tokens at the beginning of prompts that two centroids share, and what each has of its own after them. */
const sharedPrefixes = [
  { sharedTokens: 400, ownTokens: 0 },
  { sharedTokens: 400, ownTokens: 20 },
  { sharedTokens: 800, ownTokens: 0 },
];

/** Who is compared with whom: by bits of a weight, ours first. */
const groups: Record<string, Entry[]> = {
  fp32: [
    { system: "chameleon", format: "fp32" },
    { system: "transformers.js", format: "fp32" },
    { system: "node-llama-cpp", format: "f32" },
  ],
  "8-bit": [
    { system: "chameleon", format: "int8" },
    { system: "transformers.js", format: "q8" },
    { system: "node-llama-cpp", format: "q8_0" },
  ],
};

const options = parsedOptions<{
  quick?: boolean;
  json?: string;
  threads?: number;
  rounds: number;
  steps?: number;
  batches?: number[];
  contexts?: number[];
  groups?: string[];
  gguf?: string;
  adapters?: boolean;
  mixture?: boolean;
  documents?: boolean;
  prefix?: boolean;
  memory?: boolean;
  load?: number[];
  requests: number;
  against?: string;
  shape: LoadShape;
}>(
  createCommand("bench", "our engine beside Transformers.js and node-llama-cpp: GPT-2 124M's shape, random weights", [
    "chameleon bench",
  ])
    .option("--quick", "only fp32 and 8-bit, batches 1 and 8, context 128, few steps")
    .option("--json <file>", "write the figures there")
    .option("--threads <n>", "threads of each contestant (1; with --load the server's default, all cores)", count)
    .option("--rounds <n>", "rounds over which medians are taken", count, 5)
    .option("--steps <n>", "decode steps of a round", count)
    .option("--batches <list>", "batch sizes", counts)
    .option("--contexts <list>", "prompt and decoded tokens together", counts)
    .option("--groups <list>", `of ${Object.keys(groups).join(", ")}`, names)
    .option(
      "--gguf <file>",
      "the model of this file, also in parts, in place of GPT-2's shape: ours and node-llama-cpp",
    )
    .option("--adapters", "measure what the delta costs, instead")
    .option("--mixture", "measure what mixtures of experts cost beside the nearest adapter, instead")
    .option("--documents", "measure what memories of documents cost on the embedded base, instead")
    .option("--prefix", "measure what the prefix cache saves, instead")
    .option("--memory", "measure what the backend adds to the memory of its session, instead")
    .option("--load <rates>", "put a mixed open-loop load of so many requests a second on our engine, instead", rates)
    .option("--requests <n>", "requests of the load", count, 100)
    .option("--against <folder>", "with --load: our engine beside that of another checkout, alternated")
    .addOption(
      new Option("--shape <name>", "of the model under load").choices(Object.keys(loadShapes)).default("gpt2"),
    ),
);

const threads = options.threads ?? (options.load ? readConfig({}).threads : 1);
const loadAtStart = loadavg();
const say = (line: string) => console.log(line);
const figures = options.adapters
  ? await benchAdapters()
  : options.mixture
    ? await benchMixture()
    : options.documents
      ? await benchDocuments()
      : options.prefix
        ? await benchPrefix()
        : options.memory
          ? await benchMemory()
          : options.load !== undefined
            ? await benchLoad(options.load)
            : options.gguf !== undefined
              ? await benchGguf(options.gguf)
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

/** Both of our formats beside node-llama-cpp, which computes in the file's own. */
async function benchGguf(gguf: string) {
  const { quick = false, rounds, steps = 8 } = options;
  const batches = options.batches ?? [1, 8];
  const contexts = options.contexts ?? (quick ? [128] : [136, 264]);
  const cells = contexts.flatMap((context) => batches.map((batch) => ({ batch, context, steps })));
  const peer: Entry = { system: "node-llama-cpp", format: "gguf" };
  const entries: Entry[] = [{ system: "chameleon", format: "int8" }, peer, { system: "chameleon", format: "exact" }];
  installPeer(llamaFolder);
  const note = (line: string) => process.stderr.write(`${line}\n`);
  const result = await runGroup(entries, cells, { rounds, threads, gguf, note });
  for (const line of tableLines(result.rows)) say(line);
  for (const cell of result.skipped) say(skippedLine(cell));
  for (const line of agreementLines(result)) say(line);
  for (const line of ratioLines(entries, result.rows)) say(line);
  return { rows: result.rows, skipped: result.skipped };
}

async function benchContest() {
  const { quick = false, rounds } = options;
  const steps = options.steps ?? (quick ? 4 : 8);
  const chosen = options.groups ?? (quick ? ["fp32", "8-bit"] : Object.keys(groups));
  const batches = options.batches ?? (quick ? [1, 8] : [1, 8, 32]);
  const contexts = options.contexts ?? (quick ? [128] : [128, 512]);
  const cells: Cell[] = contexts.flatMap((context) => batches.map((batch) => ({ batch, context, steps })));
  const floors: Floor[] = [];
  for (const format of weightFormats) {
    const weightBytes = weightBytesOf(format);
    const bandwidthBytesPerSecond = await readBandwidth(weightBytes, threads);
    floors.push({
      format,
      weightBytes,
      bandwidthBytesPerSecond,
      msPerStep: (1000 * weightBytes) / bandwidthBytesPerSecond,
    });
  }
  for (const floor of floors) say(floorLine(floor));
  const kernels: KernelFloor[] = [];
  for (const format of kernelFormats) {
    const measured = await measureKernels(format, threads);
    say(kernelLine(measured));
    kernels.push(...measured);
  }
  for (const line of peerLines) say(line);

  try {
    installPeer(llamaFolder);
  } catch (error) {
    say(`cannot install ${Object.keys(pinsOf(llamaFolder))}: ${error instanceof Error ? error.message : error}`);
  }
  const results: { entries: Entry[]; result: GroupResult }[] = [];
  const note = (line: string) => process.stderr.write(`${line}\n`);
  for (const name of chosen) {
    const entries = groups[name];
    results.push({ entries, result: await runGroup(entries, cells, { rounds, threads, note }) });
  }
  const rows = results.flatMap(({ result }) => result.rows);
  const skipped = results.flatMap(({ result }) => result.skipped);
  for (const line of tableLines(rows)) say(line);
  for (const cell of skipped) say(skippedLine(cell));
  for (const { result } of results) for (const line of agreementLines(result)) say(line);
  for (const line of floorRatioLines(rows, floors)) say(line);
  for (const { entries } of results) for (const line of ratioLines(entries, rows)) say(line);
  return { rows, floor: floors, kernels, skipped };
}

async function benchAdapters() {
  const { quick = false } = options;
  const adapters = [];
  for (const format of quick ? (["int8"] as const) : (["fp32", "int8"] as const)) {
    for (const row of await measureAdapters(format, threads, quick ? 8 : 20)) {
      say(adapterLine(row));
      adapters.push(row);
    }
  }
  return { adapters };
}

async function benchMixture() {
  const { rounds, steps = 24 } = options;
  const mixture = [];
  for (const format of ["int8", "fp32"] as const) {
    for (const batch of options.batches ?? [1, 8]) {
      for (const row of await measureMixture(format, batch, { threads, rounds, steps })) {
        say(mixtureLine(row));
        mixture.push(row);
      }
    }
  }
  return { mixture };
}

async function benchDocuments() {
  const { rounds, steps = 16 } = options;
  // An interval needs some pairs.
  return { documents: await measureDocuments("int8", { threads, pairs: 3 * rounds, steps, say }) };
}

async function benchPrefix() {
  const prefix = [];
  for (const format of ["fp32", "int8"] as const) {
    for (const prompts of sharedPrefixes) {
      const row = await measurePrefix(format, prompts, { ...options, threads });
      say(prefixLine(row));
      prefix.push(row);
    }
  }
  return { prefix };
}

async function benchMemory() {
  const { batches = [8] } = options;
  installPeer(llamaFolder);
  // Not above: it needs packages of development, which an installed package lacks.
  const { measureMemory, memoryLines } = await import("./memory.ts");
  const memory = [];
  for (const batch of batches) {
    const row = await measureMemory("int8", batch, { threads, note: (line) => process.stderr.write(`${line}\n`) });
    for (const line of memoryLines(row)) say(line);
    memory.push(row);
  }
  return { memory };
}

async function benchLoad(rates: number[]) {
  const { requests, rounds, shape, against } = options;
  const settings = { shape, format: "int8" as const, threads, requests, rates };
  if (against !== undefined) return compareLoad(against, { ...settings, rounds }, say);
  return measureLoad(settings, say);
}

function versions(): Record<string, string> {
  const root = JSON.parse(readFileSync(join(import.meta.dirname, "../../package.json"), "utf8"));
  return {
    node: process.versions.node,
    [root.name]: root.version,
    "onnxruntime-node": root.dependencies["onnxruntime-node"],
    "@huggingface/transformers": root.devDependencies?.["@huggingface/transformers"] ?? null,
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

function names(text: string): string[] {
  const chosen = text.split(",");
  const unknown = chosen.find((name) => !Object.hasOwn(groups, name));
  if (unknown !== undefined) throw new InvalidArgumentError(`there is no group "${unknown}"`);
  return chosen;
}
