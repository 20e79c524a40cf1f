// The Vercel AI SDK, unmodified, by either of its providers: PROVIDER is compatible, or openai, which asks /v1/responses.
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, Output, embedMany, generateText, streamText, tool } from 'ai';
import { z } from 'zod';
import { baseURL, caught, cities, endOf, key, shaped, tell } from './report.mjs';

const made = {
  compatible: (apiKey, by) =>
    createOpenAICompatible({ name: 'consilium', baseURL, apiKey, fetch: by, supportsStructuredOutputs: true, includeUsage: true }),
  openai: (apiKey, by) => createOpenAI({ baseURL, apiKey, fetch: by }),
}[process.env.PROVIDER];
const provider = made(key);
const asked = { model: provider('base'), prompt: 'Say something.', maxOutputTokens: 4, maxRetries: 0 };
const report = {};

report.chat = (await generateText(asked)).usage.outputTokens;

const stream = streamText({ ...asked, model: provider(shaped) });
report.chunks = 0;
for await (const _ of stream.textStream) report.chunks += 1;
report.streamed = (await stream.usage).outputTokens;

const called = await generateText({
  ...asked,
  model: provider(shaped),
  maxOutputTokens: 1024,
  tools: { weather: tool({ description: 'The weather of a city.', inputSchema: z.object({ city: z.enum(cities) }), strict: true }) },
  toolChoice: { type: 'tool', toolName: 'weather' },
});
report.tool = called.toolCalls.map((call) => [call.toolName, call.input.city])[0];

const structured = await generateText({
  ...asked,
  model: provider(shaped),
  maxOutputTokens: 1024,
  output: Output.object({ schema: z.object({ city: z.enum(cities) }) }),
});
report.structured = structured.output.city;

const { embeddings } = await embedMany({ model: provider.embeddingModel('text-embedding-3-small'), values: ['a text', 'another'] });
report.embeddings = embeddings.map((vector) => vector.length);

const errors = [
  await caught(() => generateText({ ...asked, model: made('csl_none_none')('base') })),
  await caught(() => generateText({ ...asked, model: provider('nope') })),
  await caught(() => generateText({ ...asked, model: provider('text-embedding-3-small') })),
];
report.errors = errors.map((error) => [APICallError.isInstance(error), error.statusCode, error.data?.error?.code]);

const leaving = new AbortController();
let receipt;
const left = streamText({
  ...asked,
  model: made(key, async (...request) => {
    const answer = await fetch(...request);
    receipt = answer.headers.get('x-consilium-receipt');
    return answer;
  })(shaped),
  maxOutputTokens: 2000,
  abortSignal: leaving.signal,
  onError: () => {},
});
for await (const part of left.fullStream) if (part.type === 'text-delta') leaving.abort();
report.cancelled = await endOf(receipt);
tell(report);
