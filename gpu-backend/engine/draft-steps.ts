/** The passes of a sequence that decodes alone: they have room for tokens that it already has, or for guesses of its next ones. */
import type { KvStore, Pass, PassOutput } from "../kv/runner.ts";
import { checkedTokens } from "./drafts.ts";
import type { Head } from "./head-rows.ts";
import { type Chunk, faultsOf } from "./pass.ts";
import type { Sequence } from "./sequence.ts";

/** `draftCost` is the runner's. */
export function chunksOf(sequences: readonly Sequence[], draftCost: number): Chunk[] {
  if (sequences.length > 1 || !Number.isFinite(draftCost)) return sequences.map(nextToken);
  const [sequence] = sequences;
  const tokens = Math.min(sequence.pendingTokens, checkedTokens);
  const drafts = sequence.pendingTokens === 1 ? sequence.draftsFor(draftCost) : [];
  return [drafts.length > 0 ? { sequence, tokens, drafts } : { sequence, tokens }];
}

export function nextToken(sequence: Sequence): Chunk {
  return { sequence, tokens: 1 };
}

/** Positions of the chunk's sequence after the pass. */
export function lengthAfter({ sequence, tokens, drafts = [] }: Chunk): number {
  return sequence.cachedTokens + tokens + drafts.length;
}

/** Whether the head's token is no guess, or a right one. A row that is not finite is computed again, without guesses after it. */
export function isReached(head: Head, states: Pass["states"], output: PassOutput): boolean {
  const { sequence, draftedId, hiddenRow } = head;
  if (draftedId === null) return true;
  const { position } = states[hiddenRow];
  const isRight = sequence.ids.length === position + 1 && sequence.ids[position] === draftedId;
  return isRight && sequence.wantsToken && faultsOf([], [head], output).size === 0;
}

export class DraftCounts {
  readonly counts = { checked: 0, accepted: 0 };

  /** The first `accepted` guesses of the chunk were right. The row drops the others. */
  learn({ sequence, drafts = [] }: Chunk, accepted: number, kv: KvStore): void {
    sequence.drafts.checked(accepted);
    this.counts.checked += drafts.length;
    this.counts.accepted += accepted;
    kv.cut(sequence.row, sequence.ids.length - 1);
  }
}
