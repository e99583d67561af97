/**
 * Counts how prompts fall on centroids, so that traffic can be compared with training. Counts alone are kept: no text, no
 * ids, no tenant. They are shown in steps of `promptsPerStep`, so that nobody who looks often sees a single request.
 */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { AssignmentReport, BatchRequest } from "../../shared/contracts/inference.ts";
import {
  type AssignmentCounts,
  emptyProfile,
  promptClassOf,
  similarityBinOf,
} from "../../shared/math/assignment-profile.ts";

export const promptsPerStep = 50;

/** One prompt's assignment, as it is told to the metrics. */
export interface CountedAssignment {
  centroidId: string;
  similarity: number;
}

export class AssignmentCounter {
  readonly #run: string;
  readonly #tell: (assignments: readonly CountedAssignment[]) => void;
  #manifestHash: string | null = null;
  #classes: AssignmentCounts[] = [];
  #shown: AssignmentCounts[] = [];
  #pending: CountedAssignment[] = [];

  /**
   * @param run names this run of the backend
   * @param tell hears of the assignments of a step once it is full
   */
  constructor(run: string, tell: (assignments: readonly CountedAssignment[]) => void) {
    this.#run = run;
    this.#tell = tell;
  }

  /** Counts a micro-batch that was taken in. Another manifest's centroids are others: then it begins anew. */
  count({ manifestHash, sequences }: Pick<BatchRequest, "manifestHash" | "sequences">, { centroids }: Manifest): void {
    this.#serve(manifestHash, centroids.length);
    for (const { assignment } of sequences) {
      if (!assignment) continue;
      const { centroidId, similarity, tokens } = assignment;
      const k = centroids.findIndex(({ id }) => id === centroidId);
      if (k < 0) continue;
      const counts = this.#classes[promptClassOf(tokens)];
      counts.centroids[k]++;
      counts.similarities[similarityBinOf(similarity)]++;
      this.#pending.push({ centroidId, similarity });
      if (this.#pending.length === promptsPerStep) this.#show();
    }
  }

  /** As of the last full step. */
  report(manifestHash: string, { centroids }: Manifest): AssignmentReport {
    this.#serve(manifestHash, centroids.length);
    return { run: this.#run, manifestHash, classes: this.#shown };
  }

  #serve(manifestHash: string, centroids: number): void {
    if (manifestHash === this.#manifestHash) return;
    this.#manifestHash = manifestHash;
    this.#classes = emptyProfile(centroids);
    this.#shown = emptyProfile(centroids);
    this.#pending = [];
  }

  #show(): void {
    this.#shown = structuredClone(this.#classes);
    this.#tell(this.#pending);
    this.#pending = [];
  }
}
