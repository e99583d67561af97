/** `chameleon eval`: scores held-out text under the base and a set of artifacts, after prompts of several lengths. */
import { readLock } from "../training/corpus/lock.ts";
import type { CorpusSource } from "../training/corpus/read-corpus.ts";
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

/** `mixture` is the mixture that the model `auto` serves. */
const methods = ["base", "static", "nearest", "mixture"] as const;
/** By method, log-likelihoods of the scored tokens in nats, [texts][scoredTokens]. */
export type Scores = Record<(typeof methods)[number], Float32Array[]>;
/** "A over B" compares A with B, a single name compares with the base. */
const comparisons = ["static", "nearest", "mixture", "mixture over static", "mixture over nearest"];

export type Evaluation = Awaited<ReturnType<typeof evaluate>>;

export async function evaluate(options: EvalOptions, run: Run) {
  const { model, artifacts, corpora, corpusFolder, texts } = options;
  const { lock, hash } = await readLock();
  const opened = await openArtifacts(model, artifacts, { threads: run.threads, format: "fp32" });
  try {
    const { manifest, manifestHash } = opened.served;
    const { tokenizer } = opened.base;
    const named = corpora?.map((corpus) => ({ ...corpus, group: "trained" as const }));
    const sources = await readTexts(named ?? measuredCorpora(lock, corpusFolder), tokenizer, texts);
    const score = (source: Source, prompt: number) => scoresOf(opened, source, prompt);
    const prompts = await measureSources(sources, score, manifestHash, tokenizer, run);
    return rounded({ model: manifest.model.name, artifacts: manifestHash, lock: hash, prompts });
  } finally {
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

const textsPerPass = 8;

async function scoresOf({ trunk, reader, served }: OpenArtifacts, { texts }: Source, prompt: number): Promise<Scores> {
  const scores: Scores = { base: [], static: [], nearest: [], mixture: [] };
  const { staticGates } = served.adapters.network;
  const base = new Float32Array(staticGates.length);
  const positions = Array.from({ length: scoredTokens }, (_, i) => prompt - 1 + i);
  for (let from = 0; from < texts.length; from += textsPerPass) {
    const pass = texts.slice(from, from + textsPerPass).map((text) => withPrompt(text, prompt));
    const all = await trunk.hidden(Int32Array.from(pass.flat()), pass.length, prompt + scoredTokens); // [S, T, D]
    const size = all.length / pass.length;
    for (const [s, ids] of pass.entries()) {
      const text = { ids, hidden: all.subarray(s * size, (s + 1) * size) };
      const { nearest, gates } = await mixtureOf(reader, served, text, prompt);
      const experts = [base, staticGates, nearest, gates].map((own) => ({ gates: own, own: 0 }));
      const scored = await logprobsUnder(experts, null, reader, text, positions);
      for (const [m, method] of methods.entries()) scores[method].push(scored[m]);
    }
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

export function evaluationTables({ prompts }: Evaluation): string[] {
  const { rows, groups } = prompts.find(({ prompt }) => prompt === comparedPrompt)!;
  const ofGroups = kinds.flatMap((kind) =>
    prompts.flatMap(({ prompt, groups }) =>
      groups.filter(({ group }) => group === kind).map((own) => ({ prompt, ...own })),
    ),
  );
  return [
    markdownTable(
      ["text", "prompt", "base, bits a byte", ...comparisons, "mixture: worst source", "mixture: worst 5%"],
      ofGroups.map(({ prompt, group, sources, base, gains }) => [
        ...[`${titles[group]} (${sources})`, String(prompt), base.bitsPerByte.toFixed(3)],
        ...comparisons.map((of) => estimateText(gains[of].gain)),
        `${signed(gains.mixture.lowest.gain)} (${gains.mixture.lowest.name})`,
        signed(gains.mixture.worst),
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
      ["text", "documents / texts", "base, bits a byte", "static", "nearest", "mixture", "mixture: worst 5%"],
      rows.map(({ group, name, documents, texts, base, gains, worst }) => [
        ...[group === "trained" ? name : `${name} (${group})`, `${documents} / ${texts}`, base.bitsPerByte.toFixed(3)],
        ...["static", "nearest", "mixture"].map((of) => estimateText(gains[of])),
        signed(worst.mixture),
      ]),
    ),
  ];
}
