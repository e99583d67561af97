/** Gives a centroid a memory of its training text if validation text gains by the memory. */
import { defaultMemoryRule } from "../../shared/math/memory.ts";
import type { Excerpt } from "../memory/centroid-memories.ts";
import { documentGain, hasProvenGain, type WindowLoss } from "./bank/gain.ts";
import { gatesAt } from "./bank/measure.ts";
import { openReader, plainHead } from "./bank/reader.ts";
import type { ServedBank } from "./bank/served-bank.ts";
import type { TrainingBase } from "./base.ts";
import { gainText } from "./centroid-lines.ts";
import { assignAll, embedWindows } from "./clustering/placement.ts";
import type { Split } from "./corpus/documents.ts";
import { documentKey, prefixTokens, scoredTokens, type Window } from "./corpus/windows.ts";
import { statesOf } from "./hidden-states.ts";
import { memoryOf, openSearch, scoreWithMemory } from "./memory-scores.ts";
import { bySplit } from "./prepare.ts";
import type { CentroidMemory } from "./publish.ts";
import { Random, streams } from "./random.ts";
import { keyOf, type Run, resultsOf } from "./run.ts";

export interface MemoryText {
  corpora: readonly { name: string }[];
  windows: Record<Split, readonly Window[]>;
}

/** Returns the memory of each centroid. A window belongs to the centroid that its prefix would be assigned to as a prompt. */
export async function makeMemories(
  base: TrainingBase,
  { corpora, windows }: MemoryText,
  { table, adapters, scales }: ServedBank,
  { seed, memoryTokens }: { seed: number; memoryTokens: number },
  run: Run,
): Promise<CentroidMemory[]> {
  if (memoryTokens === 0) return Array.from(scales, () => null);
  const rule = base.memory ?? defaultMemoryRule;
  const key = keyOf(base.weightsHash, rule, adapters.bank, seed);
  const memberOf = bySplit((split) => assignAll(embedWindows(windows[split], table), adapters.centroids));
  const order = new Random(seed, streams.memories).shuffled([...windows.train.keys()]);
  const parts = Array.from(scales, (scale, k) => {
    const held = (split: Split) => windows[split].filter((_, i) => memberOf[split][i] === k);
    const members = order.filter((i) => memberOf.train[i] === k).map((i) => windows.train[i]);
    const shown = members.filter(({ isWithheld }) => !isWithheld);
    const excerpts = upTo(memoryTokens, shown).map((window) => excerptOf(window, corpora, base));
    const text = { excerpts, validation: held("validation"), test: held("test"), gates: gatesAt(adapters, k, scale) };
    return { ...text, name: `c${k}`, key: [key, text] };
  });
  const { hiddenSize, vocabularySize } = base.config;
  const head = plainHead({ hiddenSize, vocabularySize, tokenEmbedding: base.tokenEmbedding });
  const reader = await openReader(head, adapters.bank, run.threads);
  const trunk = await base.openTrunk(run.threads);

  async function compute({ name, excerpts, validation, test, gates }: (typeof parts)[number]): Promise<CentroidMemory> {
    if (excerpts.length === 0) return null;
    const known = memoryOf(await statesOf(excerpts, trunk), hiddenSize);
    const search = await openSearch(known, { hiddenSize, neighbours: rule.neighbours, threads: run.threads });
    const gainOn = async (held: readonly Window[]) => {
      const losses: WindowLoss[] = [];
      for (const window of held) {
        const [text] = await statesOf([{ ids: window.tokenIds }], trunk);
        const { plain, mixed } = await scoreWithMemory(text, prefixTokens, { reader, gates, search, rule });
        const [base, adapted] = [plain, mixed].map((logprobs) => logprobs.reduce((sum, logprob) => sum - logprob, 0));
        losses.push({ document: documentKey(window), tokens: scoredTokens(window), base, adapted });
      }
      return documentGain(losses, new Random(seed, streams.bootstrap));
    };
    const chosenBy = await gainOn(validation);
    const isKept = hasProvenGain(chosenBy);
    const memory = isKept ? { excerpts, gain: await gainOn(test) } : null;
    await search.release();
    run.progress.note(`${name}: memory ${isKept ? "kept" : "dropped"}, ${gainText(chosenBy)} on validation text`);
    return memory;
  }
  try {
    return await resultsOf("memories", parts, compute, run);
  } finally {
    await trunk.release();
    await reader.release();
  }
}

/** Takes whole windows from the front. */
function upTo(tokens: number, windows: readonly Window[]): Window[] {
  const taken: Window[] = [];
  let left = tokens;
  for (const window of windows) {
    left -= window.tokenIds.length;
    if (left < 0) break;
    taken.push(window);
  }
  return taken;
}

function excerptOf(
  { corpus, document, tokenIds }: Window,
  corpora: MemoryText["corpora"],
  base: TrainingBase,
): Excerpt {
  const before = new Int32Array(tokenIds.buffer, 0, tokenIds.byteOffset / tokenIds.BYTES_PER_ELEMENT);
  const offset = before.reduce((bytes, id) => bytes + base.tokenizer.textPieceOf(id).length, 0);
  return { name: `${corpora[corpus].name} ${document + 1}`, offset, ids: tokenIds };
}
