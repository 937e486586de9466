"""A vision-language model as a judge, for server.py: any server with the chat interface of OpenAI, such as vLLM's.

    VLM_URL=http://127.0.0.1:8001/v1/chat/completions VLM_MODEL=Qwen/Qwen2.5-VL-7B-Instruct python server.py vlm.py 8000

The model gives a number from 0 to 10; an answer without one is no score. VLM_KEY, if set, is sent as a bearer.
"""

import base64
import io
import json
import os
import re
from urllib.request import Request, urlopen

QUESTION = (
    "Rate from 0 to 10 how well this image shows what the text asks for, and how natural it looks. Text: {prompt}\n"
    "Answer with the number alone."
)


def score(images, prompts, metadata):
    """Return the model's numbers over 10, None if it gave none."""
    return [asked(*one) for one in zip(images, prompts, strict=True)]


def asked(image, prompt):
    """Return the number that the model gives an image, over 10."""
    file = io.BytesIO()
    image.save(file, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": QUESTION.format(prompt=prompt)},
    ]
    query = {"model": os.environ["VLM_MODEL"], "temperature": 0, "max_tokens": 8}
    query["messages"] = [{"role": "user", "content": content}]
    headers = {"Content-Type": "application/json"}
    if os.environ.get("VLM_KEY"):
        headers["Authorization"] = "Bearer " + os.environ["VLM_KEY"]
    with urlopen(Request(os.environ["VLM_URL"], json.dumps(query).encode(), headers), timeout=120) as answer:
        text = json.load(answer)["choices"][0]["message"]["content"]
    found = re.search(r"\d+(\.\d+)?", text)
    return min(float(found[0]), 10.0) / 10 if found else None
