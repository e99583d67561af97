/** Only a prompt's first choice requests the prompt's scores. Frames of the other choices wait for a copy of these scores. Pure. */
import type { Frame } from "../../shared/contracts/inference.ts";
import type { PlannedChoice } from "../plan/plan.ts";

/** Bytes of a frame without its lists, and of each list entry. Measured in V8 and rounded up. */
const frameBytes = 240;
const alternativeBytes = 200;

interface Group {
  firstId: string;
  otherIds: string[];
  held: Frame[];
}

export class PromptScores {
  /** Groups (the choices of one prompt) by sequence id. A group is removed when its first choice gets its first frame. */
  readonly #waiting = new Map<string, Group>();
  heldBytes = 0;

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

  /** Returns the frames to process now, in order. Error frames are never held. */
  take(frame: Frame): readonly Frame[] {
    const group = this.#waiting.get(frame.id);
    if (!group || frame.type === "error") return [frame];
    if (frame.id !== group.firstId) {
      group.held.push(frame);
      this.heldBytes += bytesOf(frame);
      return [];
    }
    for (const id of [group.firstId, ...group.otherIds]) this.#waiting.delete(id);
    for (const held of group.held) this.heldBytes -= bytesOf(held);
    const copies = frame.type === "prompt" ? group.otherIds.map((id) => ({ ...frame, id })) : [];
    return [frame, ...copies, ...group.held];
  }
}

/** Approximate bytes of a frame in RAM. Copies of a `prompt` frame share its lists, so its lists are not counted. */
export function bytesOf(frame: Frame): number {
  const alternatives =
    frame.type === "token" ? (frame.alternatives?.length ?? 0) + (frame.sources?.passages.length ?? 0) : 0;
  return frameBytes + alternativeBytes * alternatives;
}
