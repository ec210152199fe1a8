"""What the page says, in the languages it speaks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """``{}`` stands for what is filled in; numbers are written as they are in every language."""

    language: str
    path: str
    """Where on the server the page in this language is."""
    other: str
    """The link to the page in the other language, in that language."""
    slogan: str
    find_pictures: str
    find_captions: str
    add_pictures: str
    placeholder: str
    only_english: str
    search: str
    examples: str
    model: str
    dual: str
    cross: str
    both: str
    results: str
    only_likely: str
    picture: str
    or_sample: str
    no_words: str
    no_picture: str
    pictures: tuple[str, str]
    """For one, and for any other number."""
    captions: tuple[str, str]
    left_out: str
    version: str
    index: str
    cached: str
    degraded: str
    request: str
    nothing_indexed: str
    searching: str
    combine: str
    like: str
    weight: str
    avoid: str
    similar: str
    more: str
    its_captions: str
    why: str
    close: str
    where: str
    nothing_seen: str
    no_text: str
    unmoved: str
    new: str
    files: str
    caption_of_all: str
    tags: str
    add: str
    adding: str
    no_files: str
    added: str
    status: dict[str, str]
    looks_like: str


ENGLISH = Words(
    language="en",
    path="/",
    other="English",
    slogan="Find pictures by words, and words by pictures.",
    find_pictures="Find pictures",
    find_captions="Find captions",
    add_pictures="Add pictures",
    placeholder="What should the picture show?",
    only_english="",
    search="Search",
    examples="Try one of these",
    model="Model",
    dual="Dual encoder",
    cross="Cross-attention",
    both="Side by side",
    results="Results",
    only_likely="Only likely matches",
    picture="Picture",
    or_sample="Or one of the collection:",
    no_words="Type what the picture should show, or choose an example.",
    no_picture="Drop, paste or take a picture, or choose one of the collection.",
    pictures=("{} picture", "{} pictures"),
    captions=("{} caption", "{} captions"),
    left_out="{} less likely left out",
    version="model {}",
    index="index {}",
    cached="{} ms, from the cache",
    degraded="{} could not be had just now: these results are ranked by the {}.",
    request="Request {}",
    nothing_indexed="No photos are indexed yet.",
    searching="Searching <b>{}</b> pictures and <b>{}</b> captions",
    combine="Combine: like a picture, without something",
    like="Like this picture",
    weight="Weight of the picture (the words have 1)",
    avoid="Without",
    similar="More like {}",
    more="More like this",
    its_captions="Its captions",
    why="Why this one?",
    close="Close",
    where="Where the reranker sees",
    nothing_seen="What the reranker makes of it does not hang on where “{}” is.",
    no_text="Search with words first: it is words that are looked for in the picture.",
    unmoved="=",
    new="new",
    files="Pictures to add: drop them here",
    caption_of_all="What they show (one caption a line; may be left empty)",
    tags="Tags, with commas between them",
    add="Add to the collection",
    adding="Adding {}",
    no_files="Choose pictures to add.",
    added="{} of {} are in the collection and can be found.",
    status={"created": "added", "replaced": "replaced", "unchanged": "was there already"},
    looks_like="looks like {}",
)

CHINESE = Words(
    language="zh-CN",
    path="/zh",
    other="中文",
    slogan="以文搜图，以图搜文。",
    find_pictures="搜图片",
    find_captions="搜描述",
    add_pictures="添加图片",
    placeholder="图片里应该有什么？",
    only_english="当前模型只学过英文描述，请用英文输入查询。",
    search="搜索",
    examples="试试这些",
    model="模型",
    dual="双编码器",
    cross="交叉注意力",
    both="并排比较",
    results="结果数",
    only_likely="只看可能匹配的",
    picture="图片",
    or_sample="或者从图库中选一张：",
    no_words="请输入图片内容，或选择一个示例。",
    no_picture="请拖入、粘贴或拍摄一张图片，或从图库中选一张。",
    pictures=("{} 张图片", "{} 张图片"),
    captions=("{} 条描述", "{} 条描述"),
    left_out="略去 {} 个可能性较低的结果",
    version="模型 {}",
    index="索引 {}",
    cached="{} 毫秒，来自缓存",
    degraded="{}暂时不可用：以下结果由{}排序。",
    request="请求编号 {}",
    nothing_indexed="还没有索引任何照片。",
    searching="图库中有 <b>{}</b> 张图片、<b>{}</b> 条描述",
    combine="组合查询：像某张图片，但不要某些内容",
    like="像这张图片",
    weight="图片的权重（文字的权重为 1）",
    avoid="不要",
    similar="与 {} 相似的图片",
    more="更多类似图片",
    its_captions="它的描述",
    why="为什么是它？",
    close="关闭",
    where="重排模型看到的位置",
    nothing_seen="重排模型的判断与“{}”的位置无关。",
    no_text="请先用文字搜索：这里显示的是文字在图中的位置。",
    unmoved="=",
    new="新",
    files="把要添加的图片拖到这里",
    caption_of_all="图片内容（每行一条描述，可以不填）",
    tags="标签，用逗号分隔",
    add="加入图库",
    adding="正在添加 {}",
    no_files="请选择要添加的图片。",
    added="{}/{} 张已加入图库，可以搜到了。",
    status={"created": "已添加", "replaced": "已替换", "unchanged": "图库中已有"},
    looks_like="与 {} 很像",
)

LANGUAGES = (ENGLISH, CHINESE)


def counted(forms: tuple[str, str], number: int) -> str:
    return forms[number != 1].format(number)
