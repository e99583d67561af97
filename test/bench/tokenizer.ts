/**
 * The tokenizer with GPT-2's vocabulary: packed size, load time, tokens per second beside tiktoken (WASM), and runs
 * that make a quadratic merger stall. The text is the Markdown under node_modules.
 * Run: node test/bench/tokenizer.ts
 */
import { globSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { get_encoding } from "tiktoken";
import { readTensorFile, writeTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { packTokenizer } from "../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { gpt2EndOfTextId, gpt2VocabularyFiles } from "../support/gpt2-vocabulary.ts";
import { median } from "./quantile.ts";

const rounds = 7;
const textCharacters = 2_000_000;

const { vocabJson, mergesTxt } = gpt2VocabularyFiles();
const packed = writeTensorFile(packTokenizer(vocabJson, mergesTxt, gpt2EndOfTextId));
const load = () => Tokenizer.fromTensors(readTensorFile(packed));
const firstLoadMs = timed(load);
console.log(`packed: ${packed.length} bytes, ${gzipSync(packed, { level: 9 }).length} gzipped`);
console.log(`load: first ${firstLoadMs.toFixed(1)} ms, then ${median(repeat(load)).toFixed(1)} ms`);

const root = new URL("../../", import.meta.url).pathname;
const text = globSync("node_modules/**/*.md", { cwd: root })
  .sort()
  .map((path) => readFileSync(root + path, "utf8"))
  .join("\n")
  .slice(0, textCharacters);
const tokenizer = load();
const oracle = get_encoding("gpt2");
const ids = tokenizer.encode(text);
console.log(`text: ${text.length} characters, ${ids.length} tokens, same ids as tiktoken: ${sameIds()}`);

const times: Record<string, number[]> = { ours: [], tiktoken: [], decode: [] };
for (let round = 0; round < rounds; round++) {
  const contestants: [string, () => unknown][] = [
    ["ours", () => tokenizer.encode(text)],
    ["tiktoken", () => oracle.encode_ordinary(text)],
    ["decode", () => tokenizer.decode(ids)],
  ];
  // The order alternates, so that neither always runs on the other's warm caches.
  for (const [name, work] of round % 2 === 0 ? contestants : contestants.reverse()) times[name].push(timed(work));
}
for (const [name, ms] of Object.entries(times)) {
  console.log(`${name}: ${(ids.length / median(ms) / 1000).toFixed(2)} M tokens/s (median of ${rounds})`);
}
for (const unit of ["a", " ", "é", "ab", "!?"]) {
  const run = unit.repeat(100_000 / unit.length);
  console.log(
    `${JSON.stringify(unit)} × ${run.length / unit.length}: ${median(repeat(() => tokenizer.encode(run))).toFixed(1)} ms`,
  );
}
oracle.free();

function sameIds(): boolean {
  const wanted = oracle.encode_ordinary(text);
  return wanted.length === ids.length && ids.every((id, i) => id === wanted[i]);
}

function repeat(work: () => unknown): number[] {
  return Array.from({ length: rounds }, () => timed(work));
}

function timed(work: () => unknown): number {
  const startedMs = performance.now();
  work();
  return performance.now() - startedMs;
}
