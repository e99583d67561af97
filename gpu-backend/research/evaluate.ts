/** `chameleon eval`: scores held-out text under the base and a set of artifacts, after prompts of several lengths. */
import { hasMemory } from "../../shared/artifacts/manifest.ts";
import { defaultMemoryRule, type MemoryRule } from "../../shared/math/memory.ts";
import type { MemorySearch } from "../memory/search.ts";
import { readLock } from "../training/corpus/lock.ts";
import type { CorpusSource } from "../training/corpus/read-corpus.ts";
import { statesOf } from "../training/hidden-states.ts";
import { memoryOf, openSearch, scoreWithMemory } from "../training/memory-scores.ts";
import { type Run, resultsOf } from "../training/run.ts";
import { logprobsUnder, mixtureOf } from "./mixtures.ts";
import { type OpenArtifacts, openArtifacts } from "./open-artifacts.ts";
import {
  estimateText,
  groupOf,
  hasInk,
  markdownTable,
  type Pieces,
  rounded,
  rowOf,
  signed,
  type TokenTest,
} from "./statistics.ts";
import { kinds, measuredCorpora, promptLengths, readTexts, type Source, scoredTokens, withPrompt } from "./texts.ts";

export interface EvalOptions {
  model: string;
  artifacts: string;
  /** null: all measured corpora of the lock. */
  corpora: readonly CorpusSource[] | null;
  corpusFolder: string;
  texts: number;
}

/** `mixture` is the mixture that the model `auto` serves, `memory` the same with the nearest centroid's memory, if it has one. */
const methods = ["base", "static", "nearest", "mixture", "memory"] as const;
/** By method, log-likelihoods of the scored tokens in nats, [texts][scoredTokens]. */
export type Scores = Record<(typeof methods)[number], Float32Array[]>;
/** "A over B" compares A with B, a single name compares with the base. */
const ofAdapters = ["static", "nearest", "mixture", "mixture over static", "mixture over nearest"];
const comparisons = [...ofAdapters, "memory", "memory over mixture"];

export type Evaluation = Awaited<ReturnType<typeof evaluate>>;

export async function evaluate(options: EvalOptions, run: Run) {
  const { model, artifacts, corpora, corpusFolder, texts } = options;
  const { lock, hash } = await readLock();
  const opened = await openArtifacts(model, artifacts, { threads: run.threads, format: "fp32" });
  const memories = centroidMemories(opened, run.threads);
  try {
    const { manifest, manifestHash } = opened.served;
    const { tokenizer } = opened.base;
    const named = corpora?.map((corpus) => ({ ...corpus, group: "trained" as const }));
    const sources = await readTexts(named ?? measuredCorpora(lock, corpusFolder), tokenizer, texts);
    const score = (source: Source, prompt: number) => scoresOf(opened, memories.of, source, prompt);
    const prompts = await measureSources(sources, score, manifestHash, tokenizer, run);
    return rounded({ model: manifest.model.name, artifacts: manifestHash, lock: hash, prompts });
  } finally {
    await memories.release();
    await opened.release();
  }
}

/** Reuses scores of an earlier run if `key`, the texts and the length are the same. */
export async function measureSources(
  sources: readonly Source[],
  score: (source: Source, prompt: number) => Promise<Scores>,
  key: string,
  tokenizer: Pieces,
  run: Run,
) {
  const parts = sources.flatMap((source) =>
    promptLengths.map((prompt) => {
      return { source, prompt, name: `${source.name}, ${prompt}`, key: [key, prompt, source.texts] };
    }),
  );
  const scores = await resultsOf("texts", parts, ({ source, prompt }) => score(source, prompt), run);
  return promptLengths.map((prompt) => {
    const scored = parts.flatMap((part, i) =>
      part.prompt === prompt ? [{ ...part.source, logprobs: scores[i] }] : [],
    );
    const groups = [...Map.groupBy(scored, ({ group }) => group).values()];
    return {
      prompt,
      rows: scored.map((source) => rowOf(source, comparisons, tokenizer)),
      groups: groups.map((own) => groupOf(own, comparisons, tokenizer, tokenParts(prompt, tokenizer))),
    };
  });
}

const partNames = ["no white space", "in the prompt", "not in the prompt"] as const;

function tokenParts(prompt: number, tokenizer: Pieces): Record<(typeof partNames)[number], TokenTest> {
  const isInPrompt: TokenTest = (ids, at) => {
    const end = ids.length - scoredTokens;
    return ids.slice(end - prompt, end).includes(ids[at]);
  };
  return {
    "no white space": hasInk(tokenizer),
    "in the prompt": isInPrompt,
    "not in the prompt": (...token) => !isInPrompt(...token),
  };
}

type MemoryOf = ReturnType<typeof centroidMemories>["of"];

/** `of` opens the memory of a centroid when it is first needed. Returns undefined if `auto` reads none. */
function centroidMemories({ base, served, trunk }: OpenArtifacts, threads: number) {
  const { hiddenSize } = base.config;
  const { memory: rule = defaultMemoryRule } = served.manifest;
  const opened = new Map<number, { search: MemorySearch; rule: MemoryRule }>();
  return {
    async of(centroid: number) {
      if (hasMemory(served.manifest.centroids[centroid]) && !opened.has(centroid)) {
        const known = memoryOf(await statesOf(served.memories[centroid], trunk), hiddenSize);
        const search = await openSearch(known, { hiddenSize, neighbours: rule.neighbours, threads });
        opened.set(centroid, { search, rule });
      }
      return opened.get(centroid);
    },
    async release() {
      for (const { search } of opened.values()) await search.release();
    },
  };
}

async function scoresOf(
  { trunk, reader, served }: OpenArtifacts,
  memoryOfCentroid: MemoryOf,
  { texts }: Source,
  prompt: number,
): Promise<Scores> {
  const scores: Scores = { base: [], static: [], nearest: [], mixture: [], memory: [] };
  const { staticGates } = served.adapters.network;
  const base = new Float32Array(staticGates.length);
  const positions = Array.from({ length: scoredTokens }, (_, i) => prompt - 1 + i);
  const asked = texts.map((text) => ({ ids: withPrompt(text, prompt) }));
  for (const text of await statesOf(asked, trunk)) {
    const { nearest, gates } = await mixtureOf(reader, served, text, prompt);
    const experts = [base, staticGates, nearest.gates, gates].map((own) => ({ gates: own, own: 0 }));
    const scored = await logprobsUnder(experts, null, reader, text, positions);
    const memory = await memoryOfCentroid(nearest.index);
    scored.push(memory ? (await scoreWithMemory(text, prompt, { reader, gates, ...memory })).mixed : scored.at(-1)!);
    for (const [m, method] of methods.entries()) scores[method].push(scored[m]);
  }
  return scores;
}

const titles: Record<string, string> = {
  trained: "held-out documents of trained kinds",
  "left-out": "families that were left out",
  new: "unknown sources",
};
/** Prompt length of the detailed tables, in tokens. */
const comparedPrompt = 64;

const ofSources = ["static", "nearest", "mixture", "memory"];

function lowestOf({ lowest, worst }: { lowest: { name: string; gain: number }; worst: number }): string[] {
  return [`${signed(lowest.gain)} (${lowest.name})`, signed(worst)];
}

export function evaluationTables({ prompts }: Evaluation): string[] {
  const { rows, groups } = prompts.find(({ prompt }) => prompt === comparedPrompt)!;
  const ofGroups = kinds.flatMap((kind) =>
    prompts.flatMap(({ prompt, groups }) =>
      groups.filter(({ group }) => group === kind).map((own) => ({ prompt, ...own })),
    ),
  );
  return [
    markdownTable(
      ["text", "prompt", "base, bits a byte", ...ofAdapters, "mixture: worst source", "mixture: worst 5%"],
      ofGroups.map(({ prompt, group, sources, base, gains }) => [
        ...[`${titles[group]} (${sources})`, String(prompt), base.bitsPerByte.toFixed(3)],
        ...ofAdapters.map((of) => estimateText(gains[of].gain)),
        ...lowestOf(gains.mixture),
      ]),
    ),
    markdownTable(
      ["text", "prompt", "memory", "memory over mixture", "over mixture: worst source", "over mixture: worst 5%"],
      ofGroups.map(({ prompt, group, sources, gains: { memory, "memory over mixture": over } }) => [
        ...[`${titles[group]} (${sources})`, String(prompt), estimateText(memory.gain), estimateText(over.gain)],
        ...lowestOf(over),
      ]),
    ),
    markdownTable(
      [`mixture over the base, after ${comparedPrompt} tokens`, ...partNames],
      groups.map(({ group, gains: { mixture } }) => [
        titles[group],
        ...partNames.map((name) => (mixture.parts[name] ? estimateText(mixture.parts[name]) : "–")),
      ]),
    ),
    markdownTable(
      ["text", "documents / texts", "base, bits a byte", ...ofSources, "mixture: worst 5%", "memory: worst 5%"],
      rows.map(({ group, name, documents, texts, base, gains, worst }) => [
        ...[group === "trained" ? name : `${name} (${group})`, `${documents} / ${texts}`, base.bitsPerByte.toFixed(3)],
        ...ofSources.map((of) => estimateText(gains[of])),
        ...[signed(worst.mixture), signed(worst.memory)],
      ]),
    ),
  ];
}
