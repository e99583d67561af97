/** Access to tenants' own adapters for the routes: stored at the edge, fitted at the backends. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { AdapterField } from "../../shared/contracts/generation.ts";
import type { AdapterRequest } from "../../shared/contracts/inference.ts";
import { type Jurisdiction, jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { BackendClient, MadeAdapter } from "../dispatch/client.ts";
import { makeAdapter } from "../dispatch/make-adapter.ts";
import { setNewest } from "../platform/newest.ts";
import { objectNamed } from "../platform/objects.ts";
import { Refreshed } from "../platform/refreshed.ts";
import { type Access, seesOwnAdapters } from "./keys.ts";
import type { NearestAdapters } from "./nearest-adapters.ts";
import { type NamedAdapters, type OwnAdapter, ownNameOf, suffixOf } from "./own-adapters.ts";
import type { TenantAdapterStore } from "./tenant-adapter-store.ts";

type StoreMethod =
  | ("list" | "find" | "roomFor" | "add" | "remove" | "deletions" | "erase")
  | ("nearest" | "documentsOf" | "changeDocuments" | "build" | "buildLater" | "abandon" | "refitLater")
  | ("record" | "page" | "addFile" | "fileContent" | "removeFile" | "createJob" | "cancelJob");
type Remote<T> = {
  [Name in keyof T]: T[Name] extends (...parameters: infer P) => infer R
    ? (...parameters: P) => Promise<Awaited<R>>
    : never;
};
/** A tenant's store as its callers see it. The platform's own type of it has no tuples. */
export type OwnAdapters = Remote<Pick<TenantAdapterStore, StoreMethod>>;

type Viewer = Pick<Access, "tenant" | "scopes" | "aliases">;

export interface TenantAdapters {
  of(tenant: string): OwnAdapters;
  /** The adapters that a key may see, in order of name. */
  visibleTo(access: Viewer): Promise<OwnAdapter[]>;
  /** The own adapters that `model` and the extension's `adapter` name and the key may see. */
  named(access: Viewer, model: string | null, adapter: AdapterField | null, manifest: Manifest): Promise<NamedAdapters>;
  /**
   * The adapters that `auto` may use for each prompt embedding [S, P], nearest first. That a tenant has none is known for
   * `noneMs`, then looked up behind the next request.
   */
  nearest(access: Viewer, embeddings: Float32Array[], manifestHash: string): Promise<NearestAdapters>;
  /** Adapters of other artifacts than `served` are made again, in the background. */
  refit(tenant: string, served: string): void;
  /** The tenant is about to have adapters: forgets that it had none. */
  noteNew(tenant: string): void;
  /**
   * Fits an adapter at a backend of the tenant's jurisdiction; `begun` is called when it begins to compute. Throws a ServiceError,
   * `cancelled` when `signal` aborts.
   */
  create(request: AdapterRequest, signal: AbortSignal, begun: () => void): Promise<MadeAdapter>;
}

/** How long an isolate relies on having seen that a tenant has no adapters, in milliseconds. */
const noneMs = 10_000;
/** Timeout of one look, in milliseconds. */
const lookMs = 5000;
/** Tenants without adapters that an isolate remembers. */
const maxTenants = 1000;

export function createTenantAdapters(parts: {
  /** A clock in milliseconds. */
  now(): number;
  /** Keeps the Worker alive until `work` settles (waitUntil). */
  background(work: Promise<void>): void;
  stores: DurableObjectNamespace<TenantAdapterStore>;
  /** Of all backends of a jurisdiction, for one request. */
  clients(jurisdiction: Jurisdiction | null): Pick<BackendClient, "createAdapter">[];
}): TenantAdapters {
  const { stores, clients } = parts;
  const of = (tenant: string) => objectNamed(stores, tenant) as unknown as OwnAdapters;
  /** Whether a tenant has adapters, by tenant; only of those that had none at the last look. */
  const without = new Map<string, Refreshed<boolean>>();
  const times = { refreshMs: noneMs, expireMs: Number.POSITIVE_INFINITY, limitMs: lookMs, isShared: false };
  return {
    of,
    refit: (tenant, served) =>
      parts.background(
        of(tenant)
          .refitLater(served)
          .catch(() => undefined),
      ),
    noteNew: (tenant) => void without.delete(tenant),
    async nearest({ tenant, scopes }, embeddings, manifestHash) {
      const none = { hasAny: false, manifestHash, nearest: embeddings.map(() => []) };
      if (!seesOwnAdapters(scopes)) return none;
      const known = without.get(tenant);
      const look = () => of(tenant).nearest([], manifestHash);
      if (known && !(await known.get(async () => (await look()).hasAny).catch(() => false))) return none;
      const found = await of(tenant).nearest(embeddings, manifestHash).catch(unavailable);
      if (found.hasAny) without.delete(tenant);
      else {
        const seen = new Refreshed<boolean>(parts, times);
        await seen.get(async () => false);
        setNewest(without, tenant, seen, maxTenants);
      }
      return found;
    },
    visibleTo: async (access) => (seesOwnAdapters(access.scopes) ? of(access.tenant).list() : []),
    async named(access, model, adapter, manifest) {
      const listed = typeof adapter === "string" ? [adapter] : (adapter ?? []).map(({ id }) => id);
      const names = [suffixOf(model, manifest), ...listed].flatMap((text) => ownNameOf(text, manifest) ?? []);
      const aliases = Object.keys(access.aliases ?? {});
      if (!seesOwnAdapters(access.scopes)) return Object.assign(new Map(), { aliases });
      const found = await Promise.all([...new Set(names)].map((name) => of(access.tenant).find(name)));
      const own = found.filter((one) => one !== null);
      const named = Object.assign(new Map(own.map((one) => [one.name, one])), { aliases });
      if (own.length === found.length) return named;
      return Object.assign(named, { others: (await of(access.tenant).list()).map(({ name }) => name) });
    },
    create: (request, signal, begun) => makeAdapter(clients(jurisdictionOf(request.tenant)), request, signal, begun),
  };
}

/** An answer without them would not be the one that the next request gets. */
function unavailable(cause: unknown): never {
  const message = "Your own adapters cannot be looked up now; try again.";
  throw new ServiceError("backend_unavailable", message, { retryAfterSeconds: 1, cause });
}
