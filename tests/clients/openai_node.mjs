// openai-node, unmodified.
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { baseURL, caught, cities, endOf, key, say, shaped, tell } from './report.mjs';

const client = new OpenAI({ baseURL, apiKey: key, maxRetries: 0 });
const report = {};

const models = (await client.models.list()).data;
report.models = models.map((model) => model.id);
report.types = Object.fromEntries(models.map((model) => [model.id, model.type]));
report.one = (await client.models.retrieve('executor/core')).id;

const whole = await client.chat.completions.create({ model: 'base', messages: say, max_tokens: 4 });
report.chat = whole.usage.completion_tokens;

report.chunks = 0;
const stream = await client.chat.completions.create({
  model: 'base', messages: say, max_tokens: 4, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  report.chunks += 1;
  if (chunk.usage) report.streamed = chunk.usage.completion_tokens;
}

// As every tutorial reads a stream: without a look at whether a chunk has a choice.
report.text = '';
for await (const chunk of await client.chat.completions.create({ model: 'base', messages: say, max_tokens: 4, stream: true })) {
  report.text += chunk.choices[0].delta.content ?? '';
}

const called = await client.chat.completions.create({
  model: shaped,
  messages: say,
  max_tokens: 1024,
  tools: [{
    type: 'function',
    function: {
      name: 'weather',
      strict: true,
      parameters: { type: 'object', properties: { city: { type: 'string', enum: cities } }, required: ['city'], additionalProperties: false },
    },
  }],
  tool_choice: { type: 'function', function: { name: 'weather' } },
});
const [call] = called.choices[0].message.tool_calls;
report.tool = [call.function.name, JSON.parse(call.function.arguments).city];

const parsed = await client.chat.completions.parse({
  model: shaped, messages: say, max_tokens: 1024, response_format: zodResponseFormat(z.object({ city: z.enum(cities) }), 'answer'),
});
report.structured = parsed.choices[0].message.parsed.city;

const response = await client.responses.create({ model: 'base', input: 'Say something.', max_output_tokens: 4 });
report.responses = response.usage.output_tokens;

const vectors = await client.embeddings.create({ model: 'text-embedding-3-small', input: ['a text', 'another'] });
report.embeddings = [vectors.model, vectors.data.length, vectors.data[0].embedding.length];

const strange = new OpenAI({ baseURL, apiKey: 'csl_none_none', maxRetries: 0 });
const errors = [
  await caught(() => strange.models.list()),
  await caught(() => client.chat.completions.create({ model: 'nope', messages: say })),
  await caught(() => client.chat.completions.create({ model: 'text-embedding-3-small', messages: say })),
];
report.errors = errors.map((error) => [error.constructor.name, error.status, error.code]);

const left = await client.chat.completions
  .create({ model: 'base', messages: say, max_tokens: 2000, stream: true, ignore_eos: true })
  .withResponse();
for await (const _ of left.data) break;
report.cancelled = await endOf(left.response.headers.get('x-consilium-receipt'));
tell(report);
