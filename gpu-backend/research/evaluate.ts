/** `chameleon eval`: scores artifacts as they are shipped, by every method, after prompts of several lengths. */
import { readLock } from "../training/corpus/lock.ts";
import type { CorpusSource } from "../training/corpus/read-corpus.ts";
import { type Run, resultsOf } from "../training/run.ts";
import { logprobsUnder, mixtureOf } from "./mixtures.ts";
import { type OpenArtifacts, openArtifacts } from "./open-artifacts.ts";
import { type Group, groupOf, hasInk, type Pieces, type Row, rounded, rowOf, type TokenTest } from "./statistics.ts";
import { estimateText, markdownTable, signed } from "./tables.ts";
import { heldOutTexts, kinds, lockedTexts, promptLengths, type Source, scoredTokens, withPrompt } from "./texts.ts";

export interface EvalOptions {
  /** Folder of the base. */
  model: string;
  artifacts: string;
  /** Corpora whose test documents are measured; null: all sources of the lock. */
  corpora: readonly CorpusSource[] | null;
  /** Where the corpora of the lock are. */
  corpusFolder: string;
  /** Texts of each source at most. */
  texts: number;
}

/** The base; the static adapter; the nearest centroid's; the mixture by the prompt's evidence. */
const methods = ["base", "static", "nearest", "mixture"] as const;
/** Log-likelihood of each scored token, in nats, [texts][scoredTokens], by method. */
export type Scores = Record<(typeof methods)[number], Float32Array[]>;
/** What all but the base are compared with, and the mixture also with the others. */
const comparisons = ["static", "nearest", "mixture", "mixture over static", "mixture over nearest"];

/** After prompts of one length. */
export interface PromptFigures {
  /** Tokens of the prompt. */
  prompt: number;
  rows: Row[];
  groups: Group[];
}

export interface Evaluation {
  model: string;
  /** SHA-256 of manifest.json. */
  artifacts: string;
  /** SHA-256 of the corpus lock. */
  lock: string;
  prompts: PromptFigures[];
}

/** Scores the files in `artifacts` by every method, with the evidence rule of their manifest. */
export async function evaluate(options: EvalOptions, run: Run): Promise<Evaluation> {
  const { model, artifacts, corpora, corpusFolder, texts } = options;
  const { hash: lock } = await readLock();
  const opened = await openArtifacts(model, artifacts, { threads: run.threads, format: "fp32" });
  try {
    const { manifest, manifestHash } = opened.served;
    const { tokenizer } = opened.base;
    const sources = corpora
      ? await heldOutTexts(corpora, tokenizer, texts)
      : await lockedTexts(corpusFolder, tokenizer, texts);
    const score = (source: Source, prompt: number) => scoresOf(opened, source, prompt);
    const prompts = await measureSources(sources, score, manifestHash, tokenizer, run);
    return rounded({ model: manifest.model.name, artifacts: manifestHash, lock, prompts });
  } finally {
    await opened.release();
  }
}

/** `key`: what scores depend on besides texts and prompt. */
export async function measureSources(
  sources: readonly Source[],
  score: (source: Source, prompt: number) => Promise<Scores>,
  key: string,
  tokenizer: Pieces,
  run: Run,
): Promise<PromptFigures[]> {
  const parts = sources.flatMap((source) =>
    promptLengths.map((prompt) => ({
      ...{ source, prompt, name: `${source.name}, ${prompt}`, key: [key, prompt, source.texts] },
    })),
  );
  const scores = await resultsOf("texts", parts, ({ source, prompt }) => score(source, prompt), run);
  return promptLengths.map((prompt): PromptFigures => {
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

/** Parts of the scored tokens: those that are not white space, those that the prompt has, and those that it has not. */
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

/** Texts of one pass of the trunk. */
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
/** After prompts of this length sources and parts of the tokens are compared. */
const comparedPrompt = 64;

/** Gains of each group, and what sources lose at most; of parts of the tokens; and of every source. */
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
