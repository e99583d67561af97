import type { Frame } from "../../shared/contracts/inference.ts";
import type { MemoryRule } from "../../shared/math/memory.ts";
import { uniformAt } from "../../shared/math/sampling.ts";
import type { PassOutput } from "../kv/runner.ts";
import { passageOf } from "../memory/passages.ts";
import type { Head } from "./head-rows.ts";
import { maskedRow } from "./masking.ts";
import { continuationOf, type MemorySays, mixMemories, sourcesOf } from "./memory-mixing.ts";
import {
  alternativesOf,
  type HeadResult,
  headResult,
  isGreedy,
  logprobOf,
  logprobOfTarget,
  sampleToken,
} from "./sampler.ts";
import type { Score } from "./sequence.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** First mixes the memories' predictions `says` into the row, then applies the grammar's mask. */
export function readHead(
  head: Head,
  output: PassOutput,
  says: readonly MemorySays[] | undefined,
  model: { hiddenSize: number; rule: MemoryRule | null } & Pick<Vocabulary, "textPieceOf">,
): Frame[] {
  const { hiddenSize: D, rule, textPieceOf } = model;
  const { sequence, row, hiddenRow, baseRow, scoredId } = head;
  const { sampling, grammar } = sequence;
  const masked = (one: HeadResult) => (scoredId === null && grammar ? maskedRow(one, grammar, sampling) : one);
  const plain = headResult(output, row);
  const drawn = {
    changes: scoredId === null ? sequence.logitChanges() : [],
    targetId: scoredId ?? 0,
    temperature: scoredId !== null || isGreedy(sampling) ? 1 : sampling.temperature,
  };
  const mixed = says && mixMemories(plain, says, { rule: rule!, brakes: sequence.brakes! }, drawn);
  const unmasked = mixed?.row ?? plain;
  const result = masked(unmasked);
  const base = baseRow === null ? null : masked(headResult(output, baseRow));
  const alternatives = alternativesOf(result, sampling.logprobs ?? 0);
  if (scoredId !== null) {
    const logprob = logprobOfTarget(result);
    const states = sequence.trace?.kind === "hidden" ? output.hidden : null;
    if (states) sequence.trace!.hidden.push(states.slice(hiddenRow * D, (hiddenRow + 1) * D));
    sequence.addPromptScore({ logprob, alternatives, baseLogprob: base && logprobOfTarget(base) });
    return [];
  }
  const tokenId = sampleToken(result, sampling, uniformAt(sampling.seed, sequence.completionTokens));
  if (says) sequence.drafts.remember(continuationOf(sequence.memories, says, tokenId));
  const logprob = logprobOf(result, tokenId);
  const score: Score = { logprob, alternatives, baseLogprob: base && logprobOf(base, tokenId) };
  if (mixed && sequence.request.sources) {
    const said = { tokenId, logprob: logprobOf(unmasked, tokenId), theta: rule!.theta };
    score.sources = sourcesOf(mixed, says, said, (m, position) =>
      passageOf(sequence.memories[m].search.memory, position, textPieceOf),
    );
  }
  const frames = [sequence.takePromptFrame(), sequence.addToken(tokenId, score)].filter((frame) => frame !== null);
  if (sequence.wantsToken) grammar?.advance(tokenId);
  return frames;
}
