import type { Example } from "../../shared/contracts/examples.ts";
import type { Documents, EncodedExample } from "../../shared/contracts/inference.ts";
import type { BackendClient } from "../dispatch/client.ts";
import type { AdapterRecords } from "./adapter-records.ts";
import type { AdmittedRequest, Consumption } from "./consumption.ts";
import type { NewDocument } from "./memory-documents.ts";
import type { RecordLists } from "./record-lists.ts";
import type { SealedStore } from "./sealed-store.ts";

export interface Encoder {
  served(): Promise<string>;
  documents(manifestHash: string, documents: Documents): Promise<Pick<NewDocument, "tokens" | "embedding">[]>;
  examples(
    manifestHash: string,
    examples: readonly Example[],
    nowMs: number,
  ): Promise<{ examples: EncodedExample[]; centroid: Float32Array; tokens: number }>;
}

export interface TenantContext {
  tenant: string;
  storage: DurableObjectStorage;
  records: AdapterRecords;
  lists: RecordLists;
  sealed: SealedStore;
  encoder(): Encoder;
  clients(): ReadonlyMap<string, BackendClient>;
  now(): number;
  newId(): string;
  background(work: Promise<unknown>): void;
  /** Stores a use in the present transaction, then sends it to the ledger. */
  count(request: AdmittedRequest, consumed: Consumption): void;
}
