/** What the parts of a tenant's Durable Object share. */
import type { Example } from "../../shared/contracts/examples.ts";
import type { Documents, EncodedExample } from "../../shared/contracts/inference.ts";
import type { BackendClient } from "../dispatch/client.ts";
import type { AdapterRecords } from "./adapter-records.ts";
import type { AdmittedRequest, Consumption } from "./consumption.ts";
import type { NewDocument } from "./memory-documents.ts";
import type { RecordLists } from "./record-lists.ts";
import type { SealedStore } from "./sealed-store.ts";

/** Encodes a tenant's texts with the artifacts of a manifest. */
export interface Encoder {
  /** Hash of the manifest that is served now. */
  served(): Promise<string>;
  documents(manifestHash: string, documents: Documents): Promise<Pick<NewDocument, "tokens" | "embedding">[]>;
  examples(
    manifestHash: string,
    examples: readonly Example[],
    nowMs: number,
  ): Promise<{ examples: EncodedExample[]; centroid: Float32Array; tokens: number }>;
}

export interface TenantContext {
  /** The tenant's name. */
  tenant: string;
  storage: DurableObjectStorage;
  records: AdapterRecords;
  lists: RecordLists;
  sealed: SealedStore;
  encoder(): Encoder;
  /** Clients of the backends in the tenant's jurisdiction, by address. */
  clients(): ReadonlyMap<string, BackendClient>;
  /** Milliseconds since 1970. */
  now(): number;
  newId(): string;
  /** Keeps the object alive until `work` settles (waitUntil). */
  background(work: Promise<unknown>): void;
  /** Stores use in the present transaction, and sends it to the ledger. */
  count(request: AdmittedRequest, consumed: Consumption): void;
}
