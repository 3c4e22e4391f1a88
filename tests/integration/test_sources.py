"""Sources of entities: files, and the CMS's database; what cannot be used is named."""

from pathlib import Path

import psycopg
import pytest

from pipeline.settings import Settings, load
from pipeline.sources import Found, HasPhoto, Invalid, SourceError, Wanted
from pipeline.sources.configuration import source_of
from pipeline.sources.files import FileSource

CMS = """
    CREATE TABLE listings (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text, status text,
        property_type text, location_city text, location_district text, location_neighborhood text,
        features jsonb, description_short text, images jsonb, published boolean,
        deleted_at timestamptz);
    CREATE TABLE articles (id serial PRIMARY KEY, title text, category text, featured_image text,
        status text);
    CREATE TABLE news_articles (id serial PRIMARY KEY, title text, seo_title text,
        original_summary text, cover_image text, published boolean, deleted_at timestamptz);
    CREATE TABLE neighborhoods (id serial PRIMARY KEY, name text, district text, city text,
        description text, published boolean, deleted_at timestamptz);
    INSERT INTO listings (title, status, property_type, location_city, features, images, published,
                          deleted_at)
    SELECT 'Ev ' || n, 'satilik', 'daire', 'Sakarya', '{"oda": "3+1", "m2": 95}',
           CAST(CASE n % 4 WHEN 0 THEN '["a.jpg"]' WHEN 1 THEN '[]' WHEN 3 THEN '{}' END AS jsonb),
           n % 5 <> 0, CASE WHEN n % 7 = 0 THEN now() END
    FROM generate_series(1, 3000) n;
    INSERT INTO articles (title, category, featured_image, status)
    SELECT 'Yazı ' || n, 'yatirim', CASE WHEN n % 2 = 0 THEN 'x.jpg' WHEN n % 3 = 0 THEN '' END,
           CASE WHEN n % 5 = 0 THEN 'draft' ELSE 'published' END
    FROM generate_series(1, 500) n;
    INSERT INTO news_articles (title, original_summary, cover_image, published)
    SELECT 'Haber ' || n, repeat('x', 6000), CASE WHEN n % 2 = 0 THEN 'x.jpg' END, true
    FROM generate_series(1, 100) n;
    INSERT INTO neighborhoods (name, district, city, published)
    SELECT 'Mahalle ' || n, 'Karasu', 'Sakarya', n <> 3 FROM generate_series(1, 10) n;
"""


@pytest.fixture
def cms(database_url: str) -> Settings:
    """A pipeline whose database holds the CMS's tables with a few thousand rows."""
    with psycopg.connect(database_url) as connection:
        connection.execute(CMS)
    return load(_env_file=None, database_url=database_url)


def count(database_url: str, query: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def wanted(found: list[Found]) -> list[Wanted]:
    assert [one for one in found if isinstance(one, Invalid)] == []
    return [one for one in found if isinstance(one, Wanted)]


def test_the_ready_made_sources_find_exactly_what_has_no_picture(cms: Settings) -> None:
    missing = {
        "listings": "SELECT count(*) FROM listings WHERE published AND deleted_at IS NULL"
        " AND coalesce(images::text, '') IN ('', '[]', '{}')",
        "articles": "SELECT count(*) FROM articles WHERE status = 'published'"
        " AND (featured_image IS NULL OR featured_image = '')",
        "news": "SELECT count(*) FROM news_articles WHERE cover_image IS NULL",
        "neighborhoods": "SELECT count(*) FROM neighborhoods WHERE published",
    }
    expected = {name: count(cms.database_url, query) for name, query in missing.items()}

    found = {name: wanted(list(source_of(name, cms, None).read())) for name in missing}

    assert {name: len(rows) for name, rows in found.items()} == expected
    assert expected["listings"] > 1500
    assert len(wanted(list(source_of("cms", cms, None).read()))) == sum(expected.values())
    listing = found["listings"][0].request
    assert listing.context.features == {"oda": "3+1", "m2": 95}
    assert (listing.type.value, listing.context.location) == ("listing", "Sakarya")
    news = found["news"][0].request
    assert (news.type.value, news.upload.entity_type) == ("article", "news")
    assert len(news.context.description or "") == 5000


def test_a_query_that_writes_is_refused(cms: Settings, tmp_path: Path) -> None:
    own = tmp_path / "sources.toml"
    own.write_text("""
[sources.evil]
query = "DELETE FROM listings RETURNING CAST(id AS text) AS id, title"
entity_type = "listing"
entity_id = "id"
context = { title = "title" }
""")
    with pytest.raises(SourceError, match="source evil"):
        list(source_of("evil", cms, own).read())
    assert count(cms.database_url, "SELECT count(*) FROM listings") == 3000


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('query = "SELECT 1 AS id, 2 AS title"\nentity_id = "nr"', "there is no column 'nr'"),
        ('query = "SELECT id FROM nowhere"\nentity_id = "id"', "nowhere"),
        ('query = "SELEC"\nentity_id = "id"', "syntax error"),
        ('entity_id = "id"', "give a query, a file, or a topic"),
        ('query = "SELECT 1"', "entity_id: Field required"),
        ('query = "SELECT 1"\nentity_id = "id"\nextra = 1', "extra"),
        ('topic = "archive"\nquery = "SELECT 1"', "query"),
    ],
)
def test_a_wrong_source_is_named(cms: Settings, tmp_path: Path, entry: str, says: str) -> None:
    own = tmp_path / "sources.toml"
    own.write_text(
        f'[sources.mine]\n{entry}\nentity_type = "listing"\ncontext = {{ title = "title" }}\n'
    )
    with pytest.raises(SourceError, match=says):
        list(source_of("mine", cms, own).read())


def test_an_unknown_word_lists_the_sources(cms: Settings) -> None:
    with pytest.raises(SourceError, match="listings, articles, news, neighborhoods"):
        source_of("yachts", cms, None)


def test_a_csv_is_read_by_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "entities.csv"
    path.write_text(
        "id,type,title,hasImages,features\n"
        '1,listing,"Deniz, güneş",false,"{""oda"": 3}"\n'
        "2,listing,Foto,true,\n"
        "3,listing,short\n"
        "4,,x,,\n"
    )

    found = list(FileSource(path).read())

    first, photo, short, untyped = found
    assert isinstance(first, Wanted)
    assert first.request.context.title == "Deniz, güneş"
    assert first.request.context.features == {"oda": 3}
    assert isinstance(photo, HasPhoto)
    assert isinstance(short, Invalid)
    assert short.where.endswith("entities.csv:4")
    assert "5 columns" in short.reason
    assert isinstance(untyped, Invalid)


def test_a_csv_without_the_columns_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "entities.csv"
    path.write_text("nr,title\n1,x\n")
    with pytest.raises(SourceError, match="there is no column 'id'"):
        list(FileSource(path).read())


def test_a_file_may_hold_requests_and_events_too(tmp_path: Path) -> None:
    path = tmp_path / "entities.jsonl"
    request = '{"type": "hero", "context": {"title": "x"}, "upload": {"entityType": "other",'
    path.write_text(
        request + ' "entityId": "1"}}\n'
        '{"specversion": "1.0", "id": "1", "source": "s", "type": "entity-created", "data": '
        + request
        + ' "entityId": "2"}}}\n'
        '{"title": "no id"}\n'
        "[1]\n"
    )

    found = list(FileSource(path).read())

    assert [type(one) for one in found] == [Wanted, Wanted, Invalid, Invalid]


def test_a_file_that_changes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "entities.jsonl"
    path.write_text('{"id": 1, "type": "listing", "title": "x"}\n')
    reading = FileSource(path).read()
    next(reading)
    with path.open("a") as file:
        file.write('{"id": 2, "type": "listing", "title": "y"}\n')
    assert any(isinstance(one, Invalid) and "changed" in one.reason for one in reading)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        list(FileSource(tmp_path / "none.jsonl").read())
