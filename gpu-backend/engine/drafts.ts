/**
 * Drafts are guesses of a sequence's next tokens, so that one pass can check several (speculative decoding, arXiv 2211.17192). A guess is
 * what followed the last tokens when they last occurred in the sequence, or what follows a memory's key that predicted the last token. The
 * sequence gets the tokens that it gets without guesses, so a wrong guess only makes the pass longer. Pure.
 */

/** Tokens that must have occurred before, for what followed to be a guess. */
const phraseTokens = 2;
/** Maximum tokens of a pass: the last token of the sequence, then guesses. */
export const checkedTokens = 8;
/** Weight of a check in an accuracy, relative to the check after it. */
const earlierWeight = 0.8;
/** While the accuracy rules guesses out, one guess is tried every so many tokens. */
const trialTokens = 32;
/** Above every token id. */
const idBound = 2 ** 24;

/** Which guesses of one kind were right. Begins with one right of two. */
class Accuracy {
  #right = 1;
  #checked = 2;

  get share(): number {
    return this.#right / this.#checked;
  }

  add(right: number, checked: number): void {
    this.#right = earlierWeight * this.#right + right;
    this.#checked = earlierWeight * this.#checked + checked;
  }
}

interface Guess {
  kind: Accuracy;
  ids: readonly number[];
}

export class Drafts {
  readonly #ofPhrases = new Accuracy();
  readonly #ofMemories = new Accuracy();
  /** Index after a phrase's last occurrence, by the phrase as a number. */
  readonly #after = new Map<number, number>();
  #indexed = phraseTokens;
  #remembered: readonly number[] = [];
  #proposed: Guess | null = null;
  /** Length of the sequence at the last guess. */
  #lastGuess = 0;

  /** `ids` follow the sequence's last token in a memory. */
  remember(ids: readonly number[]): void {
    this.#remembered = ids;
  }

  /** Returns at most `room` tokens. `cost`: of checking one, as a share of a pass's cost (Runner.draftCost). */
  propose(ids: readonly number[], cost: number, room: number): readonly number[] {
    const most = Math.min(room, checkedTokens - 1);
    const guesses = [
      { kind: this.#ofPhrases, ids: this.#repeated(ids, most) },
      { kind: this.#ofMemories, ids: this.#remembered.slice(0, most) },
    ].filter((guess) => guess.ids.length > 0);
    guesses.sort((a, b) => b.kind.share - a.kind.share);
    const [best] = guesses;
    const isTrial = ids.length - this.#lastGuess >= trialTokens;
    const count = best ? Math.max(worthwhile(best.kind.share, best.ids.length, cost), isTrial ? 1 : 0) : 0;
    this.#proposed = count > 0 ? { kind: best.kind, ids: best.ids.slice(0, count) } : null;
    if (this.#proposed) this.#lastGuess = ids.length;
    return this.#proposed?.ids ?? [];
  }

  /** `right` is the number of proposed tokens, from the first on, that the sequence got. */
  checked(right: number): void {
    const { kind, ids } = this.#proposed!;
    kind.add(right, Math.min(right + 1, ids.length));
  }

  /** The tokens after the last earlier occurrence of the last phrase. */
  #repeated(ids: readonly number[], count: number): readonly number[] {
    for (; this.#indexed < ids.length; this.#indexed++) this.#after.set(phraseAt(ids, this.#indexed), this.#indexed);
    const at = this.#after.get(phraseAt(ids, ids.length));
    return at === undefined ? [] : ids.slice(at, at + count);
  }
}

/** The tokens before index `end`, as one number. */
function phraseAt(ids: readonly number[], end: number): number {
  return ids.slice(end - phraseTokens, end).reduce((phrase, id) => phrase * idBound + id, 0);
}

/**
 * The number of guesses, up to `most`, with the most tokens for the time: with a share a of right guesses, n guesses give
 * 1 + a + a² + … + aⁿ tokens in the time of 1 + n · `cost` steps (section 3.1 of the paper).
 */
function worthwhile(a: number, most: number, cost: number): number {
  let [best, highest, tokens] = [0, 1, 1];
  for (let n = 1; n <= most; n++) {
    tokens += a ** n;
    const speed = tokens / (1 + n * cost);
    if (speed > highest) [best, highest] = [n, speed];
  }
  return best;
}
