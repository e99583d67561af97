/** A tenant's Durable Object, with the artifacts from which own adapters are made again for a new set. */
import { artifactsMissing } from "./artifacts/artifacts.ts";
import { deployedSet, PlannedSets, publishedSets, servedHash } from "./artifacts/deployed.ts";
import { readConfig } from "./config.ts";
import { encodeDocuments } from "./plan/documents.ts";
import { encodeExamples } from "./plan/examples.ts";
import { EdgeMetrics } from "./platform/edge-metrics.ts";
import type { RefitOutcome } from "./tenants/refits.ts";
import { TenantAdapterStore as Store } from "./tenants/tenant-adapter-store.ts";
import type { Encoder } from "./tenants/tenant-context.ts";

export class TenantAdapterStore extends Store {
  readonly #sets = new PlannedSets(publishedSets(this.env, null), () => deployedSet(this.env));
  readonly #set = (manifestHash: string) => this.#sets.of(manifestHash).catch(unavailable);
  readonly #metrics = new EdgeMetrics(readConfig(this.env).otlp, () => this.now());
  protected override readonly refitted = (outcome: RefitOutcome) => this.#metrics.refitted(outcome);
  protected override readonly encoder: Encoder = {
    served: () => servedHash(this.env).catch(unavailable),
    documents: async (manifestHash, documents) =>
      (await encodeDocuments(documents, await this.#set(manifestHash))).documents,
    examples: async (manifestHash, examples, nowMs) => encodeExamples(examples, await this.#set(manifestHash), nowMs),
  };

  override async alarm(): Promise<void> {
    await super.alarm();
    await this.#metrics.report();
  }
}

function unavailable(cause: unknown): never {
  throw artifactsMissing(cause);
}
