/**
 * Scores each prompt once: only a prompt's first choice asks the backend for its `prompt` frame, and the prompt's other
 * choices get a copy of it. Their own frames are held until the first choice has had a frame, so every choice begins with
 * its prompt. Pure.
 */
import type { Frame } from "../../shared/contracts/inference.ts";
import type { PlannedChoice } from "../plan/plan.ts";

/** Bytes that a held frame is counted at: without its alternatives, and for each of them. Measured in V8, rounded up. */
const frameBytes = 240;
const alternativeBytes = 200;

interface Group {
  firstId: string;
  otherIds: string[];
  held: Frame[];
}

export class PromptScores {
  /** By sequence: its prompt's group, until the group's first choice has had a frame. */
  readonly #waiting = new Map<string, Group>();
  #heldBytes = 0;

  constructor(choices: readonly PlannedChoice[]) {
    const groups = new Map<number, Group>();
    for (const { prompt, sequence } of choices) {
      const group = groups.get(prompt);
      if (group) group.otherIds.push(sequence.id);
      else if (sequence.promptLogprobs) groups.set(prompt, { firstId: sequence.id, otherIds: [], held: [] });
    }
    for (const group of groups.values()) {
      for (const id of [group.firstId, ...group.otherIds]) this.#waiting.set(id, group);
    }
  }

  /** About how much memory the held frames take. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** The frames to go on with, in order, once `frame` has come. An error is never held. */
  take(frame: Frame): readonly Frame[] {
    const group = this.#waiting.get(frame.id);
    if (!group || frame.type === "error") return [frame];
    if (frame.id !== group.firstId) {
      group.held.push(frame);
      this.#heldBytes += bytesOf(frame);
      return [];
    }
    for (const id of [group.firstId, ...group.otherIds]) this.#waiting.delete(id);
    for (const held of group.held) this.#heldBytes -= bytesOf(held);
    const copies = frame.type === "prompt" ? group.otherIds.map((id) => ({ ...frame, id })) : [];
    return [frame, ...copies, ...group.held];
  }
}

/** About how much memory a frame takes. Copies of a `prompt` frame share its lists, which are not counted. */
export function bytesOf(frame: Frame): number {
  const alternatives = frame.type === "token" ? (frame.alternatives?.length ?? 0) : 0;
  return frameBytes + alternativeBytes * alternatives;
}
