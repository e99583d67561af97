/** The JSON of `POST /v1/responses`: a document search if the prompt has passages, then a message, function calls, or both. Pure. */
import type { Citation, ResponseEvent, ResponseItem, ResponseObject } from "../../shared/contracts/response-object.ts";
import type { Usage } from "../../shared/contracts/responses.ts";
import { envelopeOf, type ServiceError, statusOf } from "../../shared/errors.ts";
import { type ChoicePart, chatTokensOf } from "./choice.ts";
import { type ChoiceEvent, callId, type Envelope, type Form } from "./response.ts";

export const responseForm: Form = {
  idPrefix: "resp_",
  repeatsText: true,
  whole(envelope, [{ all, block }], usage) {
    return { ...completed(envelope, all, usage), ...(block && { chameleon: block }) };
  },
  events(envelope, { part, all, block, isFirst, sequence, usage }) {
    const { text, calls, logprobs, done } = part;
    const events: ChoiceEvent[] = [];
    const emit = (data: Unnumbered<ResponseEvent>, isLast = false) => {
      const { type, ...fields } = data;
      const numbered = { type, sequence_number: sequence + events.length, ...fields };
      const { delta, item } = data as { delta?: string; item?: { name?: string } };
      events.push({ name: type, data: numbered, text: delta ?? item?.name ?? "", isLast });
    };
    const search = searchOf(envelope);
    const output_index = search ? 1 : 0;
    const at = { item_id: messageId(envelope), output_index, content_index: 0 } as const;
    if (isFirst) {
      const response = responseOf(envelope, "in_progress", [], null);
      emit({ type: "response.created", response });
      emit({ type: "response.in_progress", response });
      if (search) {
        const call = { item_id: search.id, output_index: 0 };
        emit({ type: "response.output_item.added", output_index: 0, item: { ...search, status: "in_progress" } });
        emit({ type: "response.file_search_call.in_progress", ...call });
        emit({ type: "response.file_search_call.searching", ...call });
        emit({ type: "response.file_search_call.completed", ...call });
        emit({ type: "response.output_item.done", output_index: 0, item: search });
      }
    }
    const hasDelta = text !== "" || (logprobs?.length ?? 0) > 0 || (block !== null && !done);
    const isOpen = !isFirst && (all.calls.length === 0 || all.text.length > text.length);
    if (!isOpen && (hasDelta || (done && all.calls.length === 0))) {
      const item = { ...messageOf(envelope, all, "in_progress"), content: [] };
      emit({ type: "response.output_item.added", output_index, item });
      emit({ type: "response.content_part.added", ...at, part: emptyText });
    }
    if (hasDelta) {
      const told = { delta: text, logprobs: chatTokensOf(logprobs ?? []), ...(block && !done && { chameleon: block }) };
      emit({ type: "response.output_text.delta", ...at, ...told });
    }
    const status = all.finishReason === "length" ? "incomplete" : "completed";
    const [first] = calls;
    const isClosed = first
      ? first.index === 0 && first.name !== null && all.text !== ""
      : done && all.calls.length === 0;
    if (isClosed) {
      const item = messageOf(envelope, all, first ? "completed" : status);
      const [whole] = item.content;
      for (const [annotation_index, annotation] of whole.annotations.entries()) {
        emit({ type: "response.output_text.annotation.added", ...at, annotation_index, annotation });
      }
      emit({ type: "response.output_text.done", ...at, text: whole.text, logprobs: [] });
      emit({ type: "response.content_part.done", ...at, part: whole });
      emit({ type: "response.output_item.done", output_index, item });
    }
    for (const { index, name, arguments: delta, isWhole } of calls) {
      const item = callItem(envelope, all, index);
      const call = { item_id: item.id, output_index: output_index + (all.text === "" ? 0 : 1) + index };
      const place = { output_index: call.output_index };
      if (name !== null) {
        const begun = { ...item, status: "in_progress" as const, arguments: "" };
        emit({ type: "response.output_item.added", ...place, item: begun });
      }
      if (delta !== "") emit({ type: "response.function_call_arguments.delta", ...call, delta });
      if (!isWhole && !done) continue;
      const { name: called, arguments: json } = item;
      emit({ type: "response.function_call_arguments.done", ...call, name: called, arguments: json });
      emit({ type: "response.output_item.done", ...place, item });
    }
    if (!done) return events;
    const response = completed(envelope, all, usage());
    const type = response.status === "incomplete" ? "response.incomplete" : "response.completed";
    const last = { type, response: { ...response, ...(block && { chameleon: block }) } };
    emit(last as Unnumbered<ResponseEvent>, true);
    return events;
  },
  usageChunk: () => null,
  failure(envelope, error, sequence) {
    // Both places have the error's fields: OpenAI's API reference puts them into the event, OpenAI's servers into `error`.
    const told = envelopeOf(error).error;
    const response = { ...responseOf(envelope, "failed", [], null), error: errorOf(error) };
    return [
      { name: "error", data: { ...told, type: "error", sequence_number: sequence, error: told } },
      { name: "response.failed", data: { type: "response.failed", sequence_number: sequence + 1, response } },
    ];
  },
};

const emptyText = { type: "output_text" as const, text: "", annotations: [], logprobs: [] };

type Unnumbered<E> = E extends unknown ? Omit<E, "sequence_number"> : never;

function completed(envelope: Envelope, all: ChoicePart, usage: Usage): ResponseObject {
  const status = all.finishReason === "length" ? "incomplete" : "completed";
  const search = searchOf(envelope);
  const { calls, text } = all;
  const hasMessage = calls.length === 0 || text !== "";
  const output = [
    ...(search ? [search] : []),
    ...(hasMessage ? [messageOf(envelope, all, calls.length > 0 ? "completed" : status)] : []),
    ...calls.map(({ index }) => callItem(envelope, all, index)),
  ];
  return responseOf(envelope, status, output, usage);
}

function callItem(envelope: Envelope, { calls, planned }: ChoicePart, index: number) {
  const { name, arguments: json, isWhole } = calls[index];
  const call_id = callId(envelope, planned.index, index);
  const status = isWhole ? ("completed" as const) : ("incomplete" as const);
  const ids = { type: "function_call" as const, id: call_id.replace("call_", "fc_"), call_id };
  return { ...ids, status, name: name!, arguments: json };
}

function responseOf(
  { id, created, model, fingerprint, settings }: Envelope,
  status: ResponseObject["status"],
  output: ResponseItem[],
  usage: Usage | null,
): ResponseObject {
  const { query, ...repeated } = settings!;
  return {
    ...{ id, object: "response", created_at: created, status, background: false, error: null },
    access_programs: null,
    incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
    ...{ model, output, previous_response_id: null, store: false },
    ...{ reasoning: { effort: null, summary: null }, system_fingerprint: fingerprint, truncation: "disabled" },
    ...repeated,
    usage: usage && {
      input_tokens: usage.prompt_tokens,
      input_tokens_details: {
        cached_tokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
        cache_write_tokens: 0,
      },
      output_tokens: usage.completion_tokens,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: usage.total_tokens,
    },
  };
}

function messageId({ id }: Envelope): string {
  return id.replace("resp_", "msg_");
}

function messageOf(envelope: Envelope, all: ChoicePart, status: ResponseObject["status"]) {
  const { text, logprobs } = all;
  return {
    type: "message" as const,
    id: messageId(envelope),
    status: status === "in_progress" || status === "incomplete" ? status : ("completed" as const),
    role: "assistant" as const,
    content: [{ ...emptyText, text, annotations: citationsOf(all), logprobs: chatTokensOf(logprobs ?? []) }],
  };
}

function searchOf({ id, settings }: Envelope) {
  const { query } = settings!;
  if (query === null) return null;
  return {
    ...{ type: "file_search_call" as const, id: id.replace("resp_", "fs_"), status: "completed" as const },
    ...{ queries: [query], results: null },
  };
}

/** Citations at the end of the text, one for each document with a passage in the prompt. */
function citationsOf({ planned, text, done }: ChoicePart): Citation[] {
  const { memories } = planned.assignment;
  const cited = (done?.retrieved ?? []).map(({ memory, document }): [string, string] => [
    `${memories[memory].id}/${document}`,
    document,
  ]);
  return [...new Map(cited)].map(([file_id, filename]) => ({
    ...{ type: "file_citation", file_id, filename, index: text.length },
  }));
}

function errorOf({ kind, message }: ServiceError): ResponseObject["error"] {
  return { code: statusOf(kind) === 429 ? "rate_limit_exceeded" : "server_error", message };
}
