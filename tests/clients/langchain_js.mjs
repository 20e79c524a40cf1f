// @langchain/openai, unmodified, made as the nodes of n8n make it: "OpenAI Chat Model" (the Responses API unless told otherwise) and "Embeddings OpenAI".
// One thing differs: n8n never says `strict`, and without it a model of random weights calls the tool with anything.
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai';
import { z } from 'zod';
import { baseURL, caught, cities, key, shaped, tell } from './report.mjs';

const made = (options) =>
  new ChatOpenAI({
    apiKey: key,
    model: 'base',
    maxTokens: 1024,
    maxRetries: 0,
    timeout: 240000,
    configuration: { baseURL },
    useResponsesApi: process.env.RESPONSES === 'yes',
    ...options,
  });
const report = {};

report.chat = (await made({ maxTokens: 4 }).invoke('Say something.')).usage_metadata.output_tokens;
report.chunks = 0;
for await (const _ of await made({ maxTokens: 4 }).stream('Say something.')) report.chunks += 1;

const weather = {
  type: 'function',
  function: {
    name: 'weather',
    strict: true,
    description: 'The weather of a city.',
    parameters: { type: 'object', properties: { city: { type: 'string', enum: cities } }, required: ['city'], additionalProperties: false },
  },
};
const called = await made({ model: shaped }).bindTools([weather], { tool_choice: 'weather', strict: true }).invoke('Say something.');
report.tool = called.tool_calls.map((call) => [call.name, call.args.city])[0];

const inShape = made({ model: shaped }).withStructuredOutput(z.object({ city: z.enum(cities) }), { name: 'answer', method: 'jsonSchema' });
report.structured = (await inShape.invoke('Say something.')).city;

const vectors = new OpenAIEmbeddings({ model: 'text-embedding-3-small', apiKey: key, batchSize: 512, stripNewLines: true, configuration: { baseURL } });
report.embeddings = (await vectors.embedDocuments(['a text', 'another'])).map((vector) => vector.length);

const refused = await caught(() => made({ model: 'text-embedding-3-small' }).invoke('Say something.'));
report.error = [refused.status, refused.code];
tell(report);
