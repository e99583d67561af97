/** Keeps scores on disk, so that a run that was stopped goes on from there. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { writeAtomically } from "../../../gpu-backend/training/atomic-file.ts";

export class ScoreStore {
  readonly #path: string;
  readonly #scores: Record<string, number[]>;

  /** Begins with what the file has, or with nothing. */
  static async open(path: string, resume: boolean): Promise<ScoreStore> {
    const text = resume ? await readFile(path, "utf8").catch(() => "{}") : "{}";
    return new ScoreStore(path, JSON.parse(text) as Record<string, number[]>);
  }

  private constructor(path: string, scores: Record<string, number[]>) {
    this.#path = path;
    this.#scores = scores;
  }

  /** The scores of what `asked` describes in full: from the store, or made and stored. */
  async scores(asked: unknown, make: () => Promise<number[]>): Promise<number[]> {
    const key = createHash("sha256").update(JSON.stringify(asked)).digest("hex").slice(0, 32);
    this.#scores[key] ??= await make();
    await writeAtomically(this.#path, JSON.stringify(this.#scores));
    return this.#scores[key];
  }
}
