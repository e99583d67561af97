/** Bodies of the admin API, `/admin/v1`: keys, tenants and sets of artifacts. */
import * as z from "zod";
import { hashPattern } from "./inference.ts";
import { limits } from "./limits.ts";
import { tenantSchema } from "./tenant-name.ts";
import { aliasesSchema, keyIdPattern, planNames, scopes } from "./tenants.ts";

const time = z.iso.datetime();
const end = z.iso.datetime({ offset: true }).nullable().optional().describe("null: never");
const keyStates = ["active", "expires", "expired", "revoked"] as const;

export const createKeyRequestSchema = z.strictObject({
  tenant: tenantSchema,
  scopes: z.array(z.enum(scopes)).max(scopes.length).optional().describe("All, unless given"),
  expires_at: end,
});

export const keyListQuerySchema = z.strictObject({ tenant: tenantSchema.optional() });

export const rotateKeyRequestSchema = z.strictObject({
  old_expires_at: z.iso
    .datetime({ offset: true })
    .describe("Until when the old key stays valid, unless it ends before"),
  expires_at: end,
});

export const keySchema = z.object({
  object: z.literal("key"),
  id: z.string().regex(keyIdPattern).describe("Names the key in lists and logs"),
  tenant: z.string(),
  scopes: z.array(z.string()),
  created_at: time,
  expires_at: time.nullable(),
  revoked_at: time.nullable(),
  state: z.enum(keyStates),
});

export const newKeySchema = keySchema.extend({
  key: z.string().describe("The key, for the only time: its hash alone is stored"),
  replaces: keySchema.optional().describe("The key that was rotated, with its new end"),
});

export const keyListSchema = z.object({ object: z.literal("list"), data: z.array(keySchema) });

const bound = z.int().min(0).nullable();
const limitsWith = <T extends z.ZodType>(limit: T) =>
  z.strictObject({
    requests_per_minute: limit,
    tokens_per_minute: limit,
    concurrent_requests: limit,
    tokens_per_month: limit,
    memory_tokens: limit,
  });
const changedBound = z
  .union([bound, z.literal("plan")], { error: 'a limit must be a whole number, null for none, or "plan"' })
  .optional();

export const changeTenantRequestSchema = z.strictObject({
  plan: z.enum(planNames).optional(),
  limits: limitsWith(changedBound).optional().describe("null: no limit; `plan`: that of the plan"),
  origins: z
    .array(z.string().max(limits.originCharacters))
    .max(limits.origins)
    .optional()
    .describe("Web origins whose pages may call with the tenant's keys; replaces those set before"),
  aliases: aliasesSchema.optional().describe("Other names of models; replaces those set before"),
});

export const tenantSettingsSchema = z.object({
  object: z.literal("tenant"),
  tenant: z.string(),
  plan: z.enum(planNames),
  limits: limitsWith(bound),
  origins: z.array(z.string()),
  aliases: z.record(z.string(), z.string()),
});

/** Caches may accept the tenant's revoked keys for `retry_after` seconds. A repeated call then erases the tenant. */
const tenantErasingSchema = z.object({
  object: z.literal("tenant.erasing"),
  tenant: z.string(),
  retry_after: z.number().describe("Seconds"),
});

export const tenantErasedSchema = z.object({
  object: z.literal("tenant.erased"),
  tenant: z.string(),
  keys: z.int().describe("Keys whose records were deleted"),
  adapters: z.int().describe("Own adapters that were kept"),
  backends: z
    .object({
      confirmed: z.array(z.string()),
      pending: z.array(z.string()),
      partly_asked: z
        .array(z.string())
        .describe("Addresses of several processes: those that are not known to have a copy were not asked"),
    })
    .describe("Backends that have deleted the tenant's adapters; pending ones are asked until they confirm"),
  left: z.array(z.string()).describe("What is not erased, where it is, and for how long"),
});

export const tenantErasureSchema = z.discriminatedUnion("object", [tenantErasingSchema, tenantErasedSchema]);

export type Key = z.infer<typeof keySchema>;
export type NewKey = z.infer<typeof newKeySchema>;
export type TenantSettings = z.infer<typeof tenantSettingsSchema>;
export type TenantErased = z.infer<typeof tenantErasedSchema>;
export type TenantErasure = z.infer<typeof tenantErasureSchema>;

export const artifactFileSchema = z.object({
  object: z.literal("artifacts.file"),
  sha256: z.string().regex(hashPattern),
  bytes: z.int().min(0),
});

export const switchRequestSchema = z.strictObject({
  manifest: z
    .string()
    .max(64)
    .regex(/^([0-9a-f]{4,64}|previous)$/, {
      error: 'manifest must be a hash, 4 of its first digits or more, or "previous"',
    })
    .describe("SHA-256 of manifest.json, or its first digits if it was served; or `previous`"),
  other_model: z.boolean().default(false).describe("Also where the weights are not those of what is served"),
});

export const switchListSchema = z.object({
  object: z.literal("list"),
  data: z.array(z.object({ manifest: z.string(), at: time })).describe("Newest first: the first is served now"),
});

export const switchReportSchema = z.object({
  object: z.literal("artifacts.switch"),
  manifest: z.string(),
  before: z.string().nullable().describe("What was served before; null where nothing was published"),
  switched: z.boolean().describe("false where it was served already"),
});

export type ArtifactFile = z.infer<typeof artifactFileSchema>;
export type SwitchList = z.infer<typeof switchListSchema>;
export type SwitchReport = z.infer<typeof switchReportSchema>;
