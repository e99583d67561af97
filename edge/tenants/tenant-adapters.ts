/** Access to tenants' own adapters for the routes: stored at the edge, fitted at the backends. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { AdapterField } from "../../shared/contracts/generation.ts";
import type { AdapterRequest } from "../../shared/contracts/inference.ts";
import { type Jurisdiction, jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import { CallFailure, errorOf } from "../dispatch/call-failure.ts";
import type { AdapterCopy, BackendClient, MadeAdapter } from "../dispatch/client.ts";
import { objectNamed } from "../platform/objects.ts";
import { type Access, seesOwnAdapters } from "./keys.ts";
import { type NamedAdapters, type OwnAdapter, ownNameOf, requireCurrent, suffixOf } from "./own-adapters.ts";
import type { Added, ErasedAdapters, PendingDeletion, TenantAdapterStore } from "./tenant-adapter-store.ts";

/** A tenant's own adapters (tenant-adapter-store.ts). */
export interface OwnAdapters {
  /** In order of name. */
  list(): Promise<OwnAdapter[]>;
  find(name: string): Promise<OwnAdapter | null>;
  roomFor(name: string): Promise<Added>;
  add(adapter: OwnAdapter, file: ArrayBuffer, copy: AdapterCopy): Promise<Added>;
  /** The number of backends that have not confirmed the deletion; null if there is no adapter of that name. */
  remove(name: string): Promise<number | null>;
  deletions(): Promise<PendingDeletion[]>;
  erase(): Promise<ErasedAdapters>;
}

type Viewer = Pick<Access, "tenant" | "scopes">;

export interface TenantAdapters {
  of(tenant: string): OwnAdapters;
  /** The adapters that a key may see, in order of name. */
  visibleTo(access: Viewer): Promise<OwnAdapter[]>;
  /**
   * The own adapters that `model` and the extension's `adapter` name and the key may see. Throws adapter_outdated.
   */
  named(
    access: Viewer,
    model: string | null,
    adapter: AdapterField | null,
    artifacts: { manifest: Manifest; manifestHash: string },
  ): Promise<NamedAdapters>;
  /**
   * Fits an adapter at a backend of the tenant's jurisdiction; `begun` is called when it begins to compute. Throws a ServiceError,
   * `cancelled` when `signal` aborts.
   */
  create(request: AdapterRequest, signal: AbortSignal, begun: () => void): Promise<MadeAdapter>;
}

export function createTenantAdapters(parts: {
  stores: DurableObjectNamespace<TenantAdapterStore>;
  /** Of all backends of a jurisdiction, for one request. */
  clients(jurisdiction: Jurisdiction | null): Pick<BackendClient, "createAdapter">[];
}): TenantAdapters {
  const { stores, clients } = parts;
  const of = (tenant: string) => adaptersIn(objectNamed(stores, tenant));
  return {
    of,
    visibleTo: async (access) => (seesOwnAdapters(access.scopes) ? of(access.tenant).list() : []),
    async named(access, model, adapter, { manifest, manifestHash }) {
      const listed = typeof adapter === "string" ? [adapter] : (adapter ?? []).map(({ id }) => id);
      const names = [suffixOf(model, manifest), ...listed].flatMap((text) => ownNameOf(text, manifest) ?? []);
      if (!seesOwnAdapters(access.scopes)) return new Map();
      const found = await Promise.all([...new Set(names)].map((name) => of(access.tenant).find(name)));
      const own = found.filter((one) => one !== null);
      for (const one of own) requireCurrent(one, manifestHash);
      const named = new Map(own.map((one) => [one.name, one]));
      if (own.length === found.length) return named;
      return Object.assign(named, { others: (await of(access.tenant).list()).map(({ name }) => name) });
    },
    async create(request, signal, begun) {
      const jurisdiction = jurisdictionOf(request.tenant);
      const failures: CallFailure[] = [];
      for (const client of clients(jurisdiction)) {
        try {
          return await client.createAdapter(request, signal, begun);
        } catch (thrown) {
          if (signal.aborted) throw new ServiceError("cancelled", "The client disconnected.", { cause: thrown });
          if (!(thrown instanceof CallFailure) || !thrown.consequence.retryElsewhere) throw errorBehind(thrown);
          failures.push(thrown);
        }
      }
      throw errorOf(failures, jurisdiction);
    },
  };
}

/** Records cross as JSON: the platform's types of calls lose tuples. */
function adaptersIn(stub: DurableObjectStub<TenantAdapterStore>): OwnAdapters {
  const read = (record: string) => JSON.parse(record) as OwnAdapter;
  return {
    list: async () => (await stub.list()).map(read),
    async find(name) {
      const record = await stub.find(name);
      return record === null ? null : read(record);
    },
    roomFor: (name) => stub.roomFor(name),
    add: (adapter, file, copy) => stub.add(adapter.name, adapter.hash, JSON.stringify(adapter), file, copy),
    remove: (name) => stub.remove(name),
    deletions: () => stub.deletions(),
    erase: () => stub.erase(),
  };
}

function errorBehind(thrown: unknown): unknown {
  return thrown instanceof CallFailure ? thrown.error : thrown;
}
